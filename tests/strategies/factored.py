"""Workers that learn with sufficient factors, on virtual ranks or, as a module of its own, on real ones; and what must hold of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.strategies.world import NETWORK, RATE
from workbench.arena import Arena
from workbench.collectives import Native
from workbench.comm.base import Communicator
from workbench.comm.virtual import VirtualWorld
from workbench.recipes.sgd import SGD
from workbench.strategies import SufficientFactors, Worker
from workbench.wires.numbers import OnHost

Rows = Callable[[int, int], int]  # (rank, step) -> rows of the batch


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, 40), nn.Tanh(), nn.Linear(40, 3))


def squares(module: nn.Module, inputs: torch.Tensor, step: int) -> torch.Tensor:
    """Mean over the rows."""
    return module(inputs).square().mean()


class Seen:
    """What one rank has lived through."""

    def __init__(self) -> None:
        self.own: list[np.ndarray] = []
        """The gradient of each step before the exchange,"""
        self.mean: list[np.ndarray] = []
        """and after it."""
        self.bytes: list[int] = []
        self.notes: list[dict[str, str]] = []
        self.hooks = 0
        """Forward hooks that are left at the end."""


def live(
    comm: Communicator,
    strategy: SufficientFactors,
    build: Callable[[], nn.Module] = mlp,
    loss_of: Callable[[nn.Module, torch.Tensor, int], torch.Tensor] = squares,
    rows: Rows = lambda rank, step: 4,
    steps: int = 3,
    shape: Sequence[int] = (24,),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Seen:
    """What one rank sees: real forwards and backwards, a validation before each step."""
    torch.manual_seed(0)
    arena, seen = Arena(build().to(device, dtype)), Seen()
    worker = Worker(arena, arena.module, SGD(), 1, lambda: RATE, np.random.default_rng(0), comm.rank, comm.size)
    exchange = strategy.exchange(comm, worker)
    for step in range(steps):
        worker.step = step
        random = torch.Generator().manual_seed(100 * comm.rank + step)
        batch = torch.randn(rows(comm.rank, step), *shape, dtype=dtype, generator=random).to(device)
        with torch.no_grad():
            arena.module(torch.randn(7, *shape, dtype=dtype).to(device))
        arena.clear()
        loss_of(arena.module, batch, step).backward()
        arena.heal()
        seen.own.append(arena.gradients.cpu().numpy().copy())
        before = comm.traffic.total_sent_bytes
        exchange.before_update()
        seen.bytes.append(comm.traffic.total_sent_bytes - before)
        seen.mean.append(arena.gradients.cpu().numpy().copy())
        seen.notes.append(dict(exchange.notes))
        exchange.update()
    exchange.finish()
    seen.hooks = sum(len(module._forward_hooks) for module in arena.module.modules())
    return seen


def learn(strategy: SufficientFactors, size: int, **what: Any) -> list[Seen]:
    """The same on virtual ranks."""
    return VirtualWorld(size, NETWORK).run(lambda comm: live(comm, strategy, **what))


def hold_to_the_mean(everyone: list[Seen]) -> None:
    """Each step of each rank is the mean of all ranks' own gradients, with the same bits on all."""
    for step in range(len(everyone[0].own)):
        own = np.stack([seen.own[step] for seen in everyone]).astype(np.float64)
        rounding = 300 * np.finfo(everyone[0].own[0].dtype).eps
        np.testing.assert_allclose(everyone[0].mean[step], own.mean(axis=0), rtol=rounding, atol=rounding * np.abs(own).max())
        assert all(np.array_equal(seen.mean[step], everyone[0].mean[step]) for seen in everyone)
    assert all(seen.hooks == 0 for seen in everyone)


def ways(seen: Seen, step: int = -1) -> dict[str, str]:
    """Parameter -> "factors" or "whole"."""
    return {name: "factors" if "factors, " in words else "whole" for name, words in seen.notes[step].items()}


class Copy:
    """A copy from a device, which takes a while."""

    source = -1

    def __init__(self, seconds: float) -> None:
        self.until, self.done = time.perf_counter() + seconds, False

    def test(self) -> bool:
        self.done = time.perf_counter() >= self.until
        return self.done


def copy_slowly(rank: int) -> None:
    """From now on numbers come late to the host: first those of the shortest segment on one rank, and of the longest on the next."""
    begin = OnHost.__init__

    def late(self: Any, *given: Any) -> None:
        begin(self, *given)
        order = 1 / self.length if rank % 2 else 1 - 1 / self.length
        self.fetching = lambda: (Copy(0.02 * order),)

    OnHost.__init__ = late  # type: ignore[method-assign]


def main() -> None:
    """On real ranks: factors of unequal rows, a layer that has to go whole in the end, and a library's all-reduce of the rest, in one order."""
    from mpi4py import MPI

    from workbench.comm.mpi import MpiCommunicator

    comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
    seen = live(comm, SufficientFactors(choice="always"), rows=lambda rank, step: 9 if (rank, step) == (1, 3) else 4 + rank, steps=5)
    everyone = MPI.COMM_WORLD.gather(seen)
    if everyone is not None:
        hold_to_the_mean(everyone)
        assert [set(ways(everyone[0], step).values()) for step in range(5)] == [{"factors"}] * 3 + [{"whole"}] * 2
    copy_slowly(comm.rank)
    everyone = MPI.COMM_WORLD.gather(live(MpiCommunicator(MPI.COMM_WORLD.Dup()), SufficientFactors(collective=Native(), choice="always")))
    if everyone is not None:
        hold_to_the_mean(everyone)
        print(f"the mean on {comm.size} ranks")


if __name__ == "__main__":
    main()
