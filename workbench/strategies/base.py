"""When ranks talk and what they agree on: the strategy as a value, its live side as an `Exchange`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import Options

if TYPE_CHECKING:
    from workbench.arena import Arena

Role = Literal["worker", "server"]


class Optimizer(Protocol):
    """What turns a gradient into an update of the arena, in place."""

    momentum: float
    """Share of the last update that is kept. It may be changed while a run goes on."""

    def step(self, arena: Arena, learning_rate: float, gathered: bool = False) -> None:
        """Update `arena.parameters` from `arena.gradients`, which momentum has been `gathered` in or not."""
        ...


@dataclass
class Worker:
    """What an exchange sees of the rank that it works for. The loop moves `step` on; an exchange changes the arena alone."""

    arena: Arena
    module: Any
    optimizer: Optimizer
    batch_size: int
    learning_rate: Callable[[], float]
    rng: np.random.Generator
    """This worker's own random numbers, from the job's seed and its index."""
    index: int
    """Position among the workers, 0 to workers - 1."""
    workers: int
    step: int = 0
    """The step that is being done, from 0."""


class Exchange:
    """The live side of a strategy on one rank for one run. What it does not need, it leaves as it is here."""

    staleness: float = 0.0
    """How many steps old what was mixed in during this step was."""
    notes: Mapping[str, str] = MappingProxyType({})
    """What was decided for which parameter, in words; another mapping whenever there is something new to tell."""

    def __init__(self, comm: Communicator, worker: Worker) -> None:
        self.comm, self.worker = comm, worker

    def bucket_ready(self, index: int) -> None:
        """Gradients of bucket `index` are complete, in order; while backward goes on where the strategy says so, else at its end.

        May post and test, never wait.
        """

    def before_update(self) -> None:
        """The gradient is complete."""

    def update(self) -> None:
        """Turn the gradient into new parameters."""
        self.worker.optimizer.step(self.worker.arena, self.worker.learning_rate())

    def after_update(self) -> None:
        """The parameters are new."""

    def finish(self) -> None:
        """Collective. The run ends on this rank: leave no message behind, keep answering those who are not done."""


@dataclass(frozen=True)
class Strategy(Options, ABC):
    """When ranks talk and what they agree on."""

    @property
    def lockstep(self) -> bool:
        """Whether all workers do the same number of steps together, so that commands can apply at the same step."""
        return True

    @property
    def period(self) -> int:
        """Of lockstep strategies: steps from one meeting of the ranks to the next."""
        return 1

    @property
    def during_backward(self) -> bool:
        """Whether `bucket_ready` is called while backward computes (wait-free backprop), or at its end."""
        return False

    def check(self, size: int) -> None:
        """Raise a ValueError, naming what does work, where this strategy does not run on `size` ranks."""

    def roles(self, size: int) -> tuple[Role, ...]:
        """What each of `size` ranks is. A run with a server among them is refused: servers are not run yet."""
        return tuple("worker" for _ in range(size))

    def buckets(self, arena: Arena) -> tuple[slice, ...]:
        """Slices of the gradient buffer that are exchanged as one, in the order in which backward completes them."""
        return (slice(0, arena.parameters.numel()),)

    @abstractmethod
    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side on this rank, with every buffer it will need."""

    @abstractmethod
    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Mean seconds per step of exchanging a model of `nbytes` over `size` ranks of a `Network`, without arithmetic."""
