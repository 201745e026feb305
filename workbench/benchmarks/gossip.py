"""Gossip of a model of 10 MB between two ranks, beside a blocking exchange of it and one pass that averages in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from workbench.benchmarks.figures import Figure, on_ranks, tell, turns

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.comm.base import Communicator
    from workbench.strategies import Gossip, Worker

RANKS: Final = 2
SHAPE: Final = (2500, 1000)
"""Of the layer that is the model: 10 MB."""
LIMIT: Final = 1.15
PATIENCE_SECONDS: Final = 60.0
"""A step that waits for its exchange: all of what one costs is in it."""


def measure(quick: bool = False) -> list[Figure]:
    """Seconds of an exchange, in which each rank begins one, over those of Sendrecv and x <- (x + y) / 2.

    A model that takes steps while its message is under way must be copied first, which is not in the target; the detail has the ratio to
    both and that copy.
    """
    return on_ranks(RANKS, "workbench.benchmarks.gossip", quick)


def main() -> None:
    """On each of two ranks."""
    from mpi4py import MPI

    from workbench.comm.mpi import MpiCommunicator
    from workbench.strategies import Gossip
    from workbench.strategies.gossip import MODES

    world, quick = MPI.COMM_WORLD, "--quick" in sys.argv
    rounds, exchanges = (3, 3) if quick else (25, 8)
    comm, bare, peer = MpiCommunicator(world.Dup()), world.Dup(), 1 - world.rank
    worker = worker_of(comm)
    state, incoming = worker.arena.state, worker.arena.spare()
    copy = worker.arena.spare()

    def by_hand(outgoing: Tensor = state) -> None:
        bare.Sendrecv(outgoing.numpy(), peer, recvbuf=incoming.numpy(), source=peer)
        state.lerp_(incoming, 0.5)

    def with_a_copy() -> None:
        by_hand(copy.copy_(state))

    def slowest(taken: float) -> float:
        return float(world.allreduce(taken / exchanges, MPI.MAX))

    def theirs(once: Callable[[], None]) -> Callable[[], float]:
        def block() -> float:
            world.Barrier()
            start = time.perf_counter()
            for _ in range(exchanges):
                once()
            return slowest(time.perf_counter() - start)

        return block

    def ours(strategy: Gossip) -> Callable[[], float]:
        def block() -> float:
            exchange = strategy.exchange(comm, worker)
            start = 0.0
            for step in range(-1, exchanges):
                exchange.after_update()
                worker.step += 1
                if step < 0:
                    start = time.perf_counter()  # the first has made its copies
            taken = time.perf_counter() - start
            exchange.finish()  # answers the other rank, which may not be done; a blocking call here would keep it waiting
            return slowest(taken)

        return block

    modes = [Gossip(mode=mode, patience_seconds=PATIENCE_SECONDS) for mode in MODES]  # type: ignore[arg-type]
    hand, again, copied, *here = turns(rounds, theirs(by_hand), theirs(by_hand), theirs(with_a_copy), *map(ours, modes))
    if world.rank == 0:
        found = []
        for strategy, taken in zip(modes, here, strict=True):
            ratio, beside = ratio_of(taken, hand), ratio_of(taken, copied)
            milliseconds = f"{1e3 * median(taken):.2f} ms, by hand {1e3 * median(hand):.2f} ms, with a copy {1e3 * median(copied):.2f} ms"
            detail = f"{milliseconds}: {beside:.2f} of that; A/A {median(again) / median(hand):.2f}"
            what = f"2 ranks, 10 MB: {strategy.mode} over Sendrecv and one averaging pass"
            found.append(Figure.at_most(what, ratio, LIMIT, "x", detail) if strategy.mode == "pull" else Figure(what, ratio, "x", detail=detail))
        tell(found)


def ratio_of(taken: list[float], other: list[float]) -> float:
    """Of what was done in turn: the median of the ratios."""
    return median(one / another for one, another in zip(taken, other, strict=True))


def worker_of(comm: Communicator) -> Worker:
    """A worker whose model is the layer."""
    from torch import nn

    from workbench.arena import Arena
    from workbench.recipes.sgd import SGD
    from workbench.strategies import Worker

    arena = Arena(nn.Linear(*SHAPE, bias=False))
    return Worker(arena, arena.module, SGD(), 1, lambda: 0.1, np.random.default_rng(comm.rank), comm.rank, comm.size)


if __name__ == "__main__":
    main()
