"""Exchanges against each other on the ranks of this process: at every size all that can be compared take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from workbench.collectives import PORTABLE, Hierarchical
from workbench.comm.base import Array, Communicator
from workbench.comm.network import Network
from workbench.errors import WorkbenchError
from workbench.wires import WIRES

MOST_ROUNDS, FEWEST_ROUNDS = 41, 3
BLOCK_SECONDS: Final = 2e-3
MOST_REPEATS: Final = 50
"""Exchanges in one block: so few that a sum of sums stays finite in float32."""

MPI, MPI_MEAN, GLOO = "MPI Allreduce", "MPI Allreduce and division", "gloo of torch"
PEERS: Final = (MPI_MEAN, MPI, GLOO)
"""What the collectives are compared with: in the same run, in turn with them. The second and the third leave a sum."""


@final
@dataclass(frozen=True)
class Entry:
    """What takes part in a heat: a collective of the table or a peer, and a wire."""

    collective: str
    wire: str = "float32"

    def __str__(self) -> str:
        return self.collective if self.wire == "float32" else f"{self.collective} x {self.wire}"


@final
@dataclass(frozen=True)
class Heat:
    """Entries that take turns on a buffer of `nbytes` of float32 numbers."""

    nbytes: int
    entries: tuple[Entry, ...]

    @property
    def weight(self) -> int:
        """Its share of the time: what figures with targets are made of is measured longer."""
        return 3 if self.entries[0].wire == "float32" else 1


def table_of(size: int, wire: str) -> tuple[Entry, ...]:
    """Every collective of the table that says it goes with this wire on `size` ranks."""
    return tuple(Entry(name, wire) for name in PORTABLE if not refused(Entry(name, wire), size))


def refused(entry: Entry, size: int) -> str:
    """Why a collective and a wire of the tables do not go together on `size` ranks; empty where they do."""
    collective = PORTABLE[entry.collective]()
    try:
        collective.check(size)
        collective.check_wire(WIRES[entry.wire]())
    except ValueError as error:
        return str(error)
    return ""


@final
class Track:
    """Where heats are run: all ranks' communicator, its network as formulas are to see it, and peers where there are any.

    Collective throughout; every rank comes to the same decisions, since rank 0 makes them.
    """

    def __init__(self, comm: Communicator, network: Network, peers: dict[str, Callable[[Array], Callable[[], None]]]) -> None:
        self.comm, self.network, self.peers = comm, network, peers
        self.aside = comm.channel(0, counted=False)

    def run(self, heat: Heat, seconds: float) -> Iterator[dict[str, Any]]:
        """One heat in about so many `seconds`, yet at least three rounds: for every entry, the seconds of an exchange by round.

        Of each round the slowest rank counts. A round that does not count goes first; it says how many exchanges make a block that is
        long enough for a clock, and how many rounds there is time for. What could not be planned tells why.
        """
        fresh = np.random.default_rng(self.comm.rank).standard_normal(heat.nbytes // 4).astype(np.float32)
        buffer = fresh.copy()
        blocks: dict[Entry, Callable[[], None]] = {}
        for entry in heat.entries:
            run, why = self._planned(entry, buffer)
            if run is None:
                yield {"entry": entry, "left_out": why}
            else:
                blocks[entry] = run
        started = time.perf_counter()
        repeats = {}
        for entry, run in blocks.items():
            self._block(run, buffer, fresh, 1)  # the first exchange makes its buffers
            repeats[entry] = max(1, min(MOST_REPEATS, int(BLOCK_SECONDS / self._block(run, buffer, fresh, 1))))
            self._block(run, buffer, fresh, repeats[entry])
        warming = time.perf_counter() - started
        rounds = int(self._decided(max(FEWEST_ROUNDS, min(MOST_ROUNDS, 1.5 * seconds / max(warming, 1e-6) - 1.5))))
        samples: dict[Entry, list[float]] = {entry: [] for entry in blocks}
        turns = list(blocks)
        for turn in range(rounds):
            for index in range(len(turns)):
                entry = turns[(turn + index) % len(turns)]
                samples[entry].append(self._block(blocks[entry], buffer, fresh, repeats[entry]))
        for entry, taken in samples.items():
            yield {"entry": entry, "samples": taken, "predicted": self._predicted(entry, heat.nbytes)}

    def _planned(self, entry: Entry, buffer: Array) -> tuple[Callable[[], None] | None, str]:
        """What does one exchange, or why there is none; the same on all ranks."""
        run, why = None, ""
        try:
            if entry.collective in PEERS:
                run = self.peers[entry.collective](buffer)
            else:
                run = PORTABLE[entry.collective]().plan(self.comm, buffer, WIRES[entry.wire](), [layer(buffer.size)]).run
        except (ValueError, WorkbenchError, ImportError) as error:
            why = f"{type(error).__name__}: {error}"
        failed = np.array([run is None], np.int64)
        self.aside.wait(self.aside.iallreduce(failed, "max"))
        return (None, why or "another rank could not plan it") if failed[0] else (run, "")

    def _block(self, run: Callable[[], None], buffer: Array, fresh: Array, repeats: int) -> float:
        """Seconds of one exchange in a block of them, on the slowest rank; from the same numbers each time."""
        np.copyto(buffer, fresh)
        self._meet()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        taken = np.array([(time.perf_counter() - start) / repeats])
        self.aside.wait(self.aside.iallreduce(taken, "max"))
        return float(taken[0])

    def _meet(self) -> None:
        self.aside.wait(self.aside.iallreduce(np.zeros(1)))

    def _decided(self, number: float) -> float:
        """What rank 0 has."""
        told = np.array([number if self.comm.rank == 0 else 0], np.float64)
        self.aside.wait(self.aside.iallreduce(told))
        return float(told[0])

    def _predicted(self, entry: Entry, nbytes: int) -> float | None:
        if entry.collective in PEERS:
            return None
        collective = PORTABLE[entry.collective]()
        if isinstance(collective, Hierarchical):  # its formula knows nothing of hosts
            collective = Hierarchical(group=max(map(len, collective.groups(self.comm))))
        return WIRES[entry.wire]().seconds(nbytes // 4, self.comm.size, self.network, collective, [layer(nbytes // 4)])


def layer(numbers: int) -> tuple[int, int]:
    """The shape of one layer of so many numbers, as square as they allow: what compressors are told that the buffer holds."""
    rows = next(rows for rows in range(math.isqrt(numbers), 0, -1) if numbers % rows == 0)
    return rows, numbers // rows


def course(size: int, emulated: bool, quick: bool) -> Sequence[Heat]:
    """The heats of one run, those first that a figure needs: where time runs out, the last ones are left out.

    Behind an emulated link there are no peers (gloo and MPI's own blocking calls do not go through it), and no small sizes (there
    the host's clock is what is measured) or large ones (they would only take long).
    """
    everything = table_of(size, "float32")
    peers = tuple(map(Entry, PEERS))
    sizes: Sequence[int]
    if emulated:
        sizes = EMULATED_BYTES[1:2] if quick else EMULATED_BYTES
        halved = [entry for entry in table_of(size, "float16") if entry.collective in ("all-to-all", "ring")]
        heats = [*(Heat(nbytes, everything) for nbytes in sizes), Heat(EMULATED_BYTES[-1], (Entry("ring"), *halved))]
    else:
        sizes = QUICK_BYTES if quick else BYTES
        heats = [Heat(nbytes, (*everything, *peers)) for nbytes in sizes]
        if size == 2:
            ours = tuple(entry for entry in everything if entry.collective in ("ring", "halving-doubling", "native"))
            heats += [Heat(nbytes, (*ours, *peers[:2])) for nbytes in (MPI_BYTES[:2] if quick else MPI_BYTES)]
    # a wire takes turns with its own collectives and with the float32 ring: buffers of all wires at once would not fit
    for nbytes in sizes[-1:] if quick else sizes:
        heats += [Heat(nbytes, (*table_of(size, wire), Entry("ring"))) for wire in WIRES if wire != "float32"]
    return heats


KB, MB = 1024, 1024 * 1024
BYTES: Final = (KB, 8 * KB, 64 * KB, 512 * KB, MB, 4 * MB, 16 * MB, 64 * MB)
QUICK_BYTES: Final = (KB, 64 * KB, MB)
MPI_BYTES: Final = (100_000, 1_000_000, 10_000_000, 100_000_000)
EMULATED_BYTES: Final = (100_000, 1_000_000, 10_000_000)
