"""When ranks talk and what they agree on: the strategy as a value, its live side as an `Exchange`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.arena import Arena, Trained

Role = Literal["worker", "server"]


class Optimizer(Protocol):
    """What turns a gradient into an update of the parameters, in place. One is for one arena, or one part of it."""

    momentum: float
    """Share of the last update that is kept. It may be changed while a run goes on."""
    weight_decay: float
    """Pull of every parameter towards zero. It may be changed while a run goes on."""

    def step(self, trained: Trained, learning_rate: float, gathered: bool = False) -> None:
        """Update `trained.parameters` from `trained.gradients`, which momentum has been `gathered` in or not."""
        ...


@dataclass
class Worker:
    """What an exchange (or a server) sees of the rank that it works for. The loop moves `step` on; an exchange changes the arena alone."""

    arena: Arena
    module: Any
    optimizer: Optimizer
    batch_size: int
    learning_rate: Callable[[], float]
    rng: np.random.Generator
    """This worker's own random numbers, from the job's seed and its index."""
    index: int
    """Position among the workers, 0 to workers - 1; of a server, among the servers."""
    workers: int
    step: int = 0
    """The step that is being done, from 0; of a server, the most that a worker has told it to have done."""


class Exchange:
    """The live side of a strategy on one rank for one run. What it does not need, it leaves as it is here."""

    staleness: float = 0.0
    """How old what this step has applied was: updates of the centre between reading and applying, steps since a model was asked for, or how many
    steps fewer its sender had done."""
    optimizer_share: float = 1.0
    """Of an optimizer's update, what `update` does: 0 where servers do it. A virtual clock is charged that."""
    weight: float = 1.0
    """Of push-sum: what this rank's parameters count for; of all ranks and of what is on its way together 1."""
    notes: Mapping[str, str] = MappingProxyType({})
    """What was decided for which parameter, in words; another mapping whenever there is something new to tell."""
    centre: Tensor | None = None
    """Of strategies with a centre: its newest copy that this rank has seen, of the shape of `arena.state`. After `finish` it is that
    of the end of the run, with the same bits on every worker, and the answer of the run."""

    def __init__(self, comm: Communicator, worker: Worker) -> None:
        self.comm, self.worker = comm, worker
        self.counts: Counter[str] = Counter()
        """What has happened how often, in words ("pushes skipped"): told at the end of the run."""

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
class Update:
    """A server has applied what a worker has sent."""

    worker: int
    """Rank of the worker."""
    number: int
    """Of the update of the centre, from 0; the same for all that were applied as one."""
    clock: int
    """How many such updates of that worker have been applied, this one included."""
    staleness: int
    """Updates that were applied since the worker has read the parameters that this one was computed with."""


class Server:
    """The live side of a strategy on a rank that keeps a centre, for one run."""

    share: float = 1.0
    """Of the centre, that it keeps."""

    def __init__(self, comm: Communicator, worker: Worker) -> None:
        self.comm, self.worker = comm, worker

    def settle(self) -> None:
        """Bring the centre, as it is now, to where it lies in `worker.arena`; after `serve` it is there."""

    def serve(self) -> Iterator[Update]:
        """Answer the workers until the last of them is done; yields after every update, which is recorded then. Moves `worker.step` on."""
        raise NotImplementedError


@dataclass(frozen=True)
class Strategy(Options, ABC):
    """When ranks talk and what they agree on."""

    @property
    def lockstep(self) -> bool:
        """Whether all workers do the same number of steps together, so that commands can apply at the same step."""
        return True

    @property
    def period(self) -> int:
        """Of workers that share their steps: steps from one meeting to the next."""
        return 1

    @property
    def outlives(self) -> bool:
        """Whether the other workers go on without one that has died: they use nothing collective between `exchange` and the end of `finish`."""
        return False

    @property
    def callables(self) -> tuple[str, ...]:
        """The user's own functions that it needs, as "package.module:callable"."""
        return ()

    @property
    def during_backward(self) -> bool:
        """Whether `bucket_ready` is called while backward computes (wait-free backprop), or at its end."""
        return False

    @property
    def own(self) -> tuple[str, ...]:
        """Fields of a job that this strategy does not use, since it has an option of its own for them."""
        return ()

    def caution(self, workers: int, momentum: float) -> str:
        """What whoever starts a job with so many workers and that momentum should know; empty: nothing."""
        return ""

    def check(self, size: int) -> None:
        """Raise a ValueError, naming what does work, where this strategy does not run on `size` ranks."""

    def roles(self, size: int) -> tuple[Role, ...]:
        """What each of `size` ranks is; rank 0 is a worker."""
        return tuple("worker" for _ in range(size))

    def together(self, size: int) -> tuple[int, ...]:
        """For each rank the lowest rank with which it shares its steps: they take commands, and so end, at the same step."""
        return tuple(0 if self.lockstep and role == "worker" else rank for rank, role in enumerate(self.roles(size)))

    def buckets(self, arena: Arena) -> tuple[slice, ...]:
        """Slices of the gradient buffer that are exchanged as one, in the order in which backward completes them."""
        return (slice(0, arena.parameters.numel()),)

    @abstractmethod
    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side on this rank, with every buffer it will need."""

    def serving(self, comm: Communicator, worker: Worker) -> Server:
        """Collective, like `exchange` on the workers at the same time, whose collective calls it must make too. The live side of a server."""
        raise NotImplementedError(f"{type(self).__name__} has no servers")

    @abstractmethod
    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Mean seconds per step of exchanging a model of `nbytes` over `size` ranks of a `Network`, without arithmetic."""
