"""All workers average, then go on together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

from workbench.collectives import COLLECTIVES, Collective, Ring
from workbench.collectives.planned import Together
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option
from workbench.recipes.outer import OUTERS, Outer
from workbench.strategies.base import Exchange, Strategy, Worker
from workbench.wires import WIRES, Compressor, Float32, Wire

if TYPE_CHECKING:
    from workbench.arena import Arena

OVERLAPPED: Final = 8
"""Buckets of a model with overlap: the exchange of the last one, at the end of backward, hides behind nothing."""
SMALLEST, LARGEST = 1 << 15, 1 << 20
"""Bytes of such a bucket: smaller ones cost latencies, larger ones leave less of backward to hide behind."""


@final
@dataclass(frozen=True)
class Synchronous(Strategy):
    """Bulk-synchronous data-parallel SGD.

    Averaging gradients before the update is one large batch (SUBGD); averaging parameters after it is AWAGD (`avg` in
    Theano-MPI), and every H steps local SGD (Ma, Mao and Taylor, 2016; Stich, 2019). Post-local SGD begins with every
    step and becomes local later (Lin, Stich, Patel and Jaggi, 2020). Velocities are never averaged; `cdd` in Theano-MPI
    sums the workers' velocities instead of gradients, which is the same up to the rate as long as momentum is constant.

    With an `outer` optimizer parameters are averaged, and all workers go on from a centre that follows their mean:
    `Synchronous(every=500, outer=Nesterov())` is DiLoCo (Douillard et al., 2023), with the job's optimizer where they have
    AdamW. The centre is the answer of the run; with `local_from` it takes every mean as it is until then.
    """

    collective: Collective = option(Ring(), table=COLLECTIVES, help="the algorithm that makes the mean")
    wire: Wire = option(Float32(), table=WIRES, help="how numbers travel")
    average: Literal["gradients", "parameters"] = option(
        "gradients", choices=("gradients", "parameters"), help="gradients before the update, or parameters after it"
    )
    every: int = option(1, minimum=1, unit="steps", help="local steps between two averages (of parameters)")
    local_from: int | None = option(
        None, minimum=1, unit="steps", help="average after each step before this one, and only then every `every` steps; None: from the start"
    )
    outer: Outer | None = option(
        None, table=OUTERS, help="how a centre follows the mean, from which all go on; sets average='parameters'; None: they go on from the mean"
    )
    overlap: bool = option(False, help="exchange gradients, bucket by bucket, while backward still computes (wait-free backprop)")
    bucket_bytes: int | None = option(
        None,
        minimum=1,
        unit="bytes",
        help="gradients that are exchanged as one; None: all of them, with overlap an eighth of them, from 32 KiB to 1 MiB",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outer is not None:
            object.__setattr__(self, "average", "parameters")
        if self.average == "gradients" and self.every > 1:
            raise ValueError(f"Synchronous(every={self.every}): every above 1 averages parameters; give average='parameters' (or an outer) too")
        if self.local_from is not None and self.every == 1:
            raise ValueError(f"Synchronous(local_from={self.local_from}): local_from is for every above 1, got every=1")
        got, instead = "average='parameters'", "average='gradients'"
        if self.outer is not None:
            got, instead = f"outer={self.outer}, which averages parameters", "average='gradients' and no outer"
        for name in ("overlap", "bucket_bytes"):
            if self.average == "parameters" and getattr(self, name):
                raise ValueError(f"Synchronous({name}={getattr(self, name)}): {name} is for average='gradients', got {got}")
        if self.average == "parameters" and isinstance(self.wire, Compressor):
            raise ValueError(
                f"Synchronous(wire={self.wire}): {type(self.wire).__name__} leaves out most of what it is given, which parameters do not "
                f"survive; give {instead}, or a wire that sends every number, like 'float16'"
            )
        try:
            self.collective.check_wire(self.wire)
        except ValueError as error:
            raise ValueError(f"Synchronous(wire={self.wire}): {error}") from None

    @property
    def period(self) -> int:
        """The ranks meet when they average, at the latest after every `every` steps, counted from the first."""
        return self.every

    @property
    def during_backward(self) -> bool:
        """With overlap."""
        return self.overlap

    def check(self, size: int) -> None:
        """What the collective can do."""
        self.collective.check(size)

    def buckets(self, arena: Arena) -> tuple[slice, ...]:
        """Whole parameters, from the last layer on, until they are `bucket_bytes` or more."""
        everything = slice(0, arena.parameters.numel())
        if not (self.bucket_bytes or self.overlap):
            return (everything,)
        itemsize = arena.gradients.element_size()
        limit = self.bucket_bytes or min(max(SMALLEST, everything.stop * itemsize // OVERLAPPED), LARGEST)
        cuts = [0]
        for segment in arena.within(everything):
            if (segment.stop - cuts[-1]) * itemsize >= limit:
                cuts.append(segment.stop)
        if cuts[-1] < everything.stop:
            cuts.append(everything.stop)
        return tuple(map(slice, cuts, cuts[1:]))

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. Plans for every bucket, or for the whole state."""
        return AverageGradients(self, comm, worker) if self.average == "gradients" else AverageParameters(self, comm, worker)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The wire's cost with this collective, spread over the steps between two averages (of post-local SGD: once it is local).

        As of one bucket, of no known shapes: each further bucket costs its latencies again, overlap hides some of it, and
        PowerSGD sends less of matrices than of the one vector that is assumed.
        """
        return self.wire.seconds(nbytes // 4, size, network, self.collective) / self.every


@final
class AverageGradients(Exchange):
    """g <- mean of g over the workers, before every update."""

    def __init__(self, strategy: Synchronous, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        arena = worker.arena
        self.overlap, self.together = strategy.overlap, Together(comm, strategy.collective.one_at_a_time)
        self.plans = [
            strategy.collective.plan(
                comm.channel(index),
                arena.gradients[bucket],
                strategy.wire,
                [segment.shape for segment in arena.within(bucket)],
                momentum=lambda: worker.optimizer.momentum,
            )
            for index, bucket in enumerate(strategy.buckets(arena))
        ]
        self.gathered = any(plan.gathers_momentum for plan in self.plans)

    def bucket_ready(self, index: int) -> None:
        """Begin to exchange it."""
        if self.overlap:
            self.together.begin(self.plans[index])

    def before_update(self) -> None:
        """Every bucket, in order; or until those that are under way have arrived."""
        if self.overlap:
            self.together.wait()
        else:
            for plan in self.plans:
                plan.run()

    def update(self) -> None:
        """With the optimizer's momentum, unless the wire has gathered it already."""
        self.worker.optimizer.step(self.worker.arena, self.worker.learning_rate(), self.gathered)


@final
class AverageParameters(Exchange):
    """x <- mean of x over the workers, batch-norm statistics included: after every update before step `local_from`, then after every `every`-th.

    With an outer optimizer, whose steps begin with `local_from`, x <- the centre that has taken a step towards that mean. Workers begin with
    the same parameters, and so with one centre; statistics have no outer step.
    """

    def __init__(self, strategy: Synchronous, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        self.every, self.local_from, self.outer = strategy.every, strategy.local_from or 0, strategy.outer
        arena = worker.arena
        shapes = [segment.shape for segment in arena.segments.values()]
        self.plan = strategy.collective.plan(comm.channel(0), arena.state, strategy.wire, shapes)
        self.local = False
        """Whether workers have made steps since they last met."""
        if self.outer is not None:
            self.centre, self.velocity = arena.state.clone(), arena.parameters.new_zeros(arena.parameters.shape)

    def after_update(self) -> None:
        """Average when it is time."""
        early = self.worker.step < self.local_from
        self.local = not early and (self.worker.step + 1) % self.every > 0
        if not self.local:
            self.meet(None if early else self.outer)

    def finish(self) -> None:
        """The centre is the answer: it takes in what workers have done since they last met."""
        if self.local and self.outer is not None:
            self.meet(self.outer)

    def meet(self, outer: Outer | None) -> None:
        """Collective. The mean; then a step of the centre towards it, or to it."""
        self.plan.run()
        if self.centre is None:
            return
        arena = self.worker.arena
        if outer is not None:
            trained = self.centre[: arena.parameters.numel()]
            outer.step(trained, self.velocity, arena.parameters, self.worker.learning_rate())
            arena.parameters.copy_(trained)
        self.centre.copy_(arena.state)
