"""Workers for strategies to work on: a small model per virtual rank, gradients from a script, everything that happened in a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.recipes.sgd import SGD
from workbench.strategies import Exchange, Strategy, Worker
from workbench.strategies.base import Role

RATE = 0.1
NETWORK = Network(latency=1e-4, bandwidth=1e7)


def start_of(index: int) -> np.ndarray:
    """The parameters that a worker starts from, shape (12,)."""
    return np.random.default_rng([3, index]).standard_normal(12).astype(np.float32)


def gradient_of(index: int, step: int) -> np.ndarray:
    """The scripted gradient of a worker at a step, shape (12,)."""
    return np.random.default_rng([4, index, step]).standard_normal(12).astype(np.float32)


def worker_of(
    comm: Communicator, same_start: bool, momentum: float = 0.0, weight_decay: float = 0.0, rate: float = RATE, roles: tuple[Role, ...] = ()
) -> Worker:
    """What an exchange or a server works for; without `roles` all ranks are workers."""
    roles = roles or ("worker",) * comm.size
    arena = Arena(nn.Linear(3, 3))
    arena.state.copy_(torch.from_numpy(start_of(0 if same_start else comm.rank)))
    return Worker(
        arena=arena,
        module=arena.module,
        optimizer=SGD(momentum, weight_decay),
        batch_size=1,
        learning_rate=lambda: rate,
        rng=np.random.default_rng([5, comm.rank]),
        index=roles[: comm.rank].count(roles[comm.rank]),
        workers=roles.count("worker"),
    )


def play(
    strategy: Strategy,
    size: int,
    steps: int | Callable[[int], int],
    watch: Callable[[Exchange], Any] = lambda exchange: None,
    seconds: Callable[[int], float] = lambda rank: 1e-3,
    same_start: bool = False,
    **sgd: float,
) -> tuple[list[np.ndarray], list[Any]]:
    """Run a strategy on scripted gradients: the trajectory of every worker (steps + 2 rows: start, each step, after finish), and for
    every rank what was watched: of a worker what `watch` gave, of a server the list of its updates, in order.

    `sgd` may say momentum, weight_decay and rate. ValueError for a size that the strategy does not run on.
    """
    strategy.check(size)
    roles = strategy.roles(size)

    ends: list[Any] = []

    def body(comm: Communicator) -> tuple[np.ndarray | None, Any]:
        ends.append(comm._node)  # type: ignore[attr-defined]
        worker = worker_of(comm, same_start, roles=roles, **sgd)
        if roles[comm.rank] == "server":
            return None, list(strategy.serving(comm, worker).serve())
        exchange = strategy.exchange(comm, worker)
        watched = watch(exchange)
        buckets = len(strategy.buckets(worker.arena))
        states = [worker.arena.state.numpy().copy()]
        for step in range(steps if isinstance(steps, int) else steps(comm.rank)):
            worker.step = step
            worker.arena.gradients.copy_(torch.from_numpy(gradient_of(comm.rank, step)))
            for bucket in range(buckets):
                comm.compute(seconds(comm.rank) / buckets)
                exchange.bucket_ready(bucket)
            exchange.before_update()
            exchange.update()
            exchange.after_update()
            states.append(worker.arena.state.numpy().copy())
            worker.step = step + 1
        exchange.finish()
        states.append(worker.arena.state.numpy().copy())
        return np.stack(states), watched

    results = VirtualWorld(size, NETWORK).run(body)
    assert not [end.seat.rank for end in ends if end.open], "after finish a rank still waits for a message that nobody will send"
    return [states for states, _ in results if states is not None], [watched for _, watched in results]


def seconds_of_an_exchange(strategy: Strategy, size: int, rounds: int = 20) -> tuple[float, int]:
    """Mean virtual seconds of a step of workers that do nothing but exchange, and the bytes of the model."""
    roles = strategy.roles(size)

    def body(comm: Communicator) -> tuple[float, int]:
        worker = worker_of(comm, same_start=True, roles=roles)
        worker.arena = Arena(nn.Linear(100, 100))
        if roles[comm.rank] == "server":
            return float(len(list(strategy.serving(comm, worker).serve()))), 0
        exchange = strategy.exchange(comm, worker)
        began = comm.now()
        for _ in range(rounds):
            exchange.before_update()
            exchange.update()
            exchange.after_update()
        seconds = (comm.now() - began) / rounds
        exchange.finish()
        return seconds, 4 * worker.arena.state.numel()

    return max(VirtualWorld(size, NETWORK).run(body)[: roles.count("worker")])
