"""What a message costs beyond bare mpi4py: small ones there and back between two ranks, in turn with the same by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import numpy as np
from mpi4py import MPI

from workbench.benchmarks.figures import Figure, tell, turns
from workbench.comm.mpi import MpiCommunicator

MESSAGES: Final = 500
LIMIT_US: Final = 10.0


def main() -> None:
    """On each of two ranks."""
    world, rounds = MPI.COMM_WORLD, 7 if "--quick" in sys.argv else 41
    bare, comm = world.Dup(), MpiCommunicator(world.Dup())
    peer = 1 - world.rank
    outgoing, incoming = np.ones(2, np.float32), np.ones(2, np.float32)

    def by_hand() -> None:
        requests = [bare.Irecv(incoming, peer), bare.Isend(outgoing, peer)]
        while not MPI.Request.Testall(requests):
            pass

    def ours() -> None:
        comm.wait(comm.irecv(incoming, peer), comm.isend(outgoing, peer))

    def block(exchange: Callable[[], None]) -> Callable[[], float]:
        def run() -> float:
            world.Barrier()
            start = time.perf_counter()
            for _ in range(MESSAGES):
                exchange()
            return float(world.allreduce((time.perf_counter() - start) / MESSAGES, MPI.MAX))

        return run

    hand, here, again = turns(rounds, block(by_hand), block(ours), block(by_hand))
    if world.rank == 0:
        cost = 1e6 * (median(here) - median(hand))
        detail = f"isend, irecv and wait {1e6 * median(here):.2f} us, Isend, Irecv and Testall {1e6 * median(hand):.2f} us"
        detail += f"; A/A {1e6 * (median(again) - median(hand)):+.2f} us; 8 B, one message each way"
        tell([Figure.at_most("2 ranks: cost of a message beyond bare mpi4py", cost, LIMIT_US, "us", detail)])


if __name__ == "__main__":
    main()
