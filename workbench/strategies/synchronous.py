"""All workers average, then go on together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from workbench.collectives import COLLECTIVES, Collective, Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option
from workbench.strategies.base import Exchange, Strategy, Worker
from workbench.wires import WIRES, Float32, Wire


@final
@dataclass(frozen=True)
class Synchronous(Strategy):
    """Bulk-synchronous data-parallel SGD.

    Averaging gradients before the update is one large batch (SUBGD, `cdd` in Theano-MPI); averaging parameters after
    it is AWAGD (`avg`), and every H steps local SGD (Ma, Mao and Taylor, 2016; Stich, 2019).
    """

    collective: Collective = option(Ring(), table=COLLECTIVES, help="the algorithm that makes the mean")
    wire: Wire = option(Float32(), table=WIRES, help="how numbers travel")
    average: Literal["gradients", "parameters"] = option(
        "gradients", choices=("gradients", "parameters"), help="gradients before the update, or parameters after it"
    )
    every: int = option(1, minimum=1, unit="steps", help="local steps between two averages (of parameters)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average == "gradients" and self.every > 1:
            raise ValueError(f"Synchronous(every={self.every}): every above 1 averages parameters; give average='parameters' too")

    @property
    def period(self) -> int:
        """The ranks meet when they average."""
        return self.every

    def check(self, size: int) -> None:
        """What the collective can do."""
        self.collective.check(size)

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. Plans for every bucket, or for the whole state."""
        return AverageGradients(self, comm, worker) if self.average == "gradients" else AverageParameters(self, comm, worker)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The collective's cost, spread over the steps between two averages."""
        return self.collective.seconds(nbytes, size, network) / self.every


@final
class AverageGradients(Exchange):
    """g <- mean of g over the workers, before every update."""

    def __init__(self, strategy: Synchronous, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        gradients = worker.arena.gradients
        self.plans = [
            strategy.collective.plan(comm.channel(index), gradients[bucket], strategy.wire)
            for index, bucket in enumerate(strategy.buckets(worker.arena))
        ]

    def before_update(self) -> None:
        """One exchange per bucket, in order."""
        for plan in self.plans:
            plan.run()


@final
class AverageParameters(Exchange):
    """x <- mean of x over the workers, after every `every`-th update, batch-norm statistics included."""

    def __init__(self, strategy: Synchronous, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        self.every = strategy.every
        self.plan = strategy.collective.plan(comm.channel(0), worker.arena.state, strategy.wire)

    def after_update(self) -> None:
        """Average when it is time."""
        if (self.worker.step + 1) % self.every == 0:
            self.plan.run()
