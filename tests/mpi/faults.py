"""What each rank of `test_faults` runs: `mpiexec -n 3 python -m tests.mpi.faults [collective]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from mpi4py import MPI

from tests.laws import on_real_ranks
from tests.mpi.conclusion import conclude
from workbench.collectives import Collective, Native, Ring
from workbench.comm.mpi import MpiCommunicator
from workbench.errors import PeerLost, WorkbenchError
from workbench.wires import Float16

ENOUGH = 30.0
"""Seconds in which nothing that has failed may still be waited for."""
LENGTH = 100_003
LAST = MPI.COMM_WORLD.size - 1


def chosen() -> list[Collective]:
    return on_real_ranks(LAST + 1)


def fresh() -> MpiCommunicator:
    """A communicator that ends every wait after a while, so that a hang is a failure with words."""
    end = time.monotonic() + ENOUGH
    return MpiCommunicator(MPI.COMM_WORLD.Dup(), aborted=lambda: time.monotonic() > end)


def late(collective: Collective) -> Iterator[str]:
    """The others wait for a rank that enters late; the mean is right."""
    comm = fresh()
    buffer = np.full(LENGTH, float(comm.rank), np.float32)
    plan = collective.plan(comm, buffer)
    if comm.rank == LAST:
        time.sleep(0.05)
    plan.run()
    if not np.allclose(buffer, LAST / 2):
        yield f"{collective}: {buffer[:3]} with a late rank"


def unlike(collective: Collective) -> Iterator[str]:
    """Ranks that do not bring the same are told so when the plan is made, all of them."""
    wrong = LAST
    other = Ring() if collective != Ring() else Native()
    plans: dict[str, Callable[[MpiCommunicator], object]] = {
        f"rank 0 brings 8 numbers, rank {wrong} brings 9": lambda comm: collective.plan(comm, np.zeros(8 + (comm.rank == wrong), np.float32)),
        "bytes a number": lambda comm: collective.plan(comm, np.zeros(8, np.float64 if comm.rank == wrong else np.float32)),
        f"rank 0 and rank {wrong} differ": lambda comm: (other if comm.rank == wrong else collective).plan(comm, np.zeros(8, np.float32)),
    }
    if collective.any_codec:
        plans[f"rank 0 and rank {wrong} differ; "] = lambda comm: collective.plan(
            comm, np.zeros(8, np.float32), Float16() if comm.rank == wrong else "float32"
        )
    for words, plan in plans.items():
        comm = fresh()
        try:
            plan(comm)
            yield f"{collective}: a plan was made, not: {words}"
        except ValueError as error:
            if words not in str(error):
                yield f"{collective}: {error}, not: {words}"


def halfway(collective: Collective, comm: MpiCommunicator, fall: Callable[[], None]) -> str:
    """One good exchange; in the next one the last rank falls between two steps. What the others are told."""
    buffer = np.ones(LENGTH, np.float32)
    plan = collective.plan(comm, buffer)
    plan.run()
    try:
        if comm.rank == LAST:
            steps = plan.steps()
            next(steps)
            fall()
            return "fallen"
        while True:  # what is still under way from a rank that has fallen may complete one exchange
            plan.run()
    except PeerLost as error:
        return "" if error.rank == LAST else f"{collective}: {error}"
    except WorkbenchError as error:
        return f"{collective}: {type(error).__name__}: {error}"


def raised(collective: Collective) -> Iterator[str]:
    """A rank that fails between two steps says farewell, and the others name it."""
    comm = fresh()
    told = halfway(collective, comm, lambda: comm.farewell("ValueError: out of luck"))
    if told not in ("", "fallen"):
        yield told


def died(collective: Collective) -> None:
    """A rank is killed between two steps: every other says so in words, of the rank or of the library, and in time."""
    comm = fresh()
    told = halfway(collective, comm, lambda: os.kill(os.getpid(), signal.SIGKILL))
    print(f"rank {comm.rank} of {collective}: {told or 'named'}", flush=True)
    os._exit(0)  # nobody finalizes a library with a dead peer


def main() -> None:
    """One collective that a rank dies in, by what it is called; else every law for all of them, and the words of all ranks."""
    if len(sys.argv) > 1:
        died(next(each for each in chosen() if str(each) == sys.argv[1]))
    found = [words for collective in chosen() for law in (late, unlike, raised) for words in law(collective)]
    conclude(found, f"laws kept on {LAST + 1} ranks")


if __name__ == "__main__":
    main()
