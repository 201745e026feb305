"""What an exchange allocates once its plan is warm: blocks that Python's tracer sees, and pages that the host hands out.

Two measures, since neither sees all. `tracemalloc` knows what Python and NumPy allocate, temporaries included: the peak of one
exchange of 4 MB less that of one of 4 KB is what grows with the buffer (requests and tuples, a few hundred bytes, are in both).
Torch and the MPI library allocate behind its back: with `mallopt` every block of 64 KB or more becomes a mapping of its own, so that
filling one costs 16 page faults or more, which the host counts. A figure is the most that either has seen; up to 64 KB are no buffers
of an exchange of 4 MB but its requests, Python's own store of small objects, or a compressor's block by block. All numbers are
equal, the worst case of those that choose the largest. MPI's own all-reduce (`native`) is left out: its buffers are the library's.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import tracemalloc
from statistics import median
from typing import Final

import numpy as np
from mpi4py import MPI

from workbench.benchmarks.figures import Figure, tell
from workbench.benchmarks.heats import Entry, layer, refused
from workbench.collectives import PORTABLE, Planned
from workbench.comm.mpi import MpiCommunicator
from workbench.errors import WorkbenchError
from workbench.wires import WIRES

LARGE, SMALL = 1 << 20, 1 << 10  # numbers: 4 MB and 4 KB
BLOCK_BYTES: Final = 1 << 16
M_MMAP_THRESHOLD: Final = -3
WARM, COUNTED = 4, 31


def main() -> None:
    """On each of two ranks."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES)
    world = MPI.COMM_WORLD
    comm = MpiCommunicator(world.Dup())
    figures = []
    for name in PORTABLE:
        wires = [wire for wire in WIRES if name != "native" and not refused(Entry(name, wire), world.size)]
        found = {wire: pair for wire in wires if (pair := allocated(comm, name, wire)) is not None}
        if found:
            detail = ", ".join(f"{wire} {seen} B seen, {pages} B of pages" for wire, (seen, pages) in found.items())
            worst = max(each for pair in found.values() for each in pair)
            figures.append(Figure.at_most(f"2 ranks, 4 MB, {name}: allocated by an exchange after the first", worst, BLOCK_BYTES, "B", detail))
    if world.rank == 0:
        tell(figures)


def allocated(comm: MpiCommunicator, collective: str, wire: str) -> tuple[int, int] | None:
    """Collective. Bytes that grow with the buffer, and bytes of new pages, of a warm exchange on the worse rank; None where none is planned."""
    plans = []
    for numbers in (LARGE, SMALL):
        try:
            plans.append(PORTABLE[collective]().plan(comm, np.ones(numbers, np.float32), WIRES[wire](), [layer(numbers)]))
        except (ValueError, WorkbenchError, ImportError):
            return None
    large, small = plans
    worst = np.array([max(0, peak(large) - peak(small)), pages(large)], np.int64)
    comm.wait(comm.iallreduce(worst, "max"))
    return int(worst[0]), int(worst[1])


def peak(plan: Planned) -> int:
    """The most bytes beyond those that were there, as Python's tracer sees them, while a warm exchange runs."""
    for _ in range(WARM):
        plan.run()
    gc.collect()
    tracemalloc.start()
    try:
        plan.run()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        plan.run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def pages(plan: Planned) -> int:
    """The median bytes of pages that the host hands out while a warm exchange runs."""
    counts = []
    for _ in range(COUNTED):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        plan.run()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return int(median(counts)) * resource.getpagesize()


if __name__ == "__main__":
    main()
