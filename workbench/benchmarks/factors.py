"""Sufficient factors of one large layer beside its whole gradient around a ring, both behind an emulated link."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from workbench.benchmarks.figures import Figure, on_ranks, tell, turns

if TYPE_CHECKING:
    from workbench.comm.base import Communicator
    from workbench.strategies import Exchange, Strategy, Worker

RANKS: Final = 4
NETWORK: Final = "1G"
SIDE: Final = 4096
ROWS: Final = 32


def measure(quick: bool = False) -> list[Figure]:
    """Seconds of an exchange of a SIDE x SIDE layer over those of Ring, and beside the formula."""
    return on_ranks(RANKS, "workbench.benchmarks.factors", quick)


def main() -> None:
    """On each rank."""
    from mpi4py import MPI

    from workbench.comm.link import LinkedCommunicator
    from workbench.comm.network import Network
    from workbench.strategies import SufficientFactors, Synchronous
    from workbench.strategies.sufficient_factors import Broadcast, factor_seconds

    world, network = MPI.COMM_WORLD, Network.of(NETWORK)
    comm = LinkedCommunicator(world.Dup(), network)

    def slowest(run: Callable[[], None]) -> float:
        """Seconds on the rank that takes longest; all begin together."""
        world.Barrier()
        start = time.perf_counter()
        run()
        return float(max(world.allgather(time.perf_counter() - start)))

    def exchanging(strategy: Strategy) -> tuple[Exchange, Callable[[], float]]:
        worker = worker_of(comm)
        exchange = strategy.exchange(comm.channel(0), worker)

        def block() -> float:
            backward(worker)
            return slowest(exchange.before_update)

        return exchange, block

    _, ring = exchanging(Synchronous())
    exchange, factors = exchanging(SufficientFactors())
    factors()  # the first step chooses
    assert isinstance(exchange, Broadcast)
    (layer,) = exchange.layers
    whole, sent, products = turns(3 if "--quick" in sys.argv else 15, ring, factors, lambda: slowest(layer.multiply))
    if world.rank == 0:
        rate = 2 * world.size * ROWS * SIDE**2 / median(products)
        predicted = factor_seconds(ROWS, layer.shape, world.size, network, rate)
        what = f"{world.size} ranks, {SIDE}x{SIDE}, {ROWS} rows, emulated {NETWORK}"
        detail = f"ring {1e3 * median(whole):.0f} ms, factors {1e3 * median(sent):.1f} ms; {exchange.notes[layer.name]}"
        formula = f"predicted {1e3 * predicted:.1f} ms with {rate / 1e9:.0f} Gflop/s on each rank, all at once"
        tell(
            [
                Figure.at_most(f"{what}: sufficient factors over the ring", median(sent) / median(whole), 0.3, "x", detail),
                Figure.at_most(f"{what}: off the formula", 100 * abs(median(sent) / predicted - 1), 30, "%", formula),
            ]
        )


def worker_of(comm: Communicator) -> Worker:
    """A worker whose model is the layer."""
    import torch
    from torch import nn

    from workbench.arena import Arena
    from workbench.recipes.sgd import SGD
    from workbench.strategies import Worker

    torch.manual_seed(0)
    arena = Arena(nn.Linear(SIDE, SIDE, bias=False))
    return Worker(arena, arena.module, SGD(), ROWS, lambda: 0.1, np.random.default_rng(comm.rank), comm.rank, comm.size)


def backward(worker: Worker) -> None:
    """A step up to its exchange."""
    import torch

    worker.arena.clear()
    worker.module(torch.randn(ROWS, SIDE)).square().mean().backward()
    worker.arena.heal()


if __name__ == "__main__":
    main()
