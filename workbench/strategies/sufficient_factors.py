"""The gradients of linear layers travel as the factors that they are the product of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from workbench.collectives import COLLECTIVES, Collective, Ring
from workbench.collectives.planned import Planned, Together
from workbench.comm.base import Communicator, Request
from workbench.comm.network import Network
from workbench.options import option
from workbench.strategies.base import Exchange, Strategy, Worker
from workbench.strategies.factors import Layer, linear_layers

if TYPE_CHECKING:
    from workbench.arena import Arena


@final
@dataclass(frozen=True)
class SufficientFactors(Strategy):
    """Synchronous SGD in which each worker sends all others the factors of a linear layer's gradient (Xie et al., 2016).

    The gradient of an M x N weight over K rows of a batch is U^T V: U (K, M) are the gradients of its outputs, V (K, N) its
    inputs. K(M + N) numbers say all that M N numbers do, and every rank makes the mean gradient of all factors by itself, exactly. For each layer the
    cheaper way is chosen (SACP: Zhang et al., 2015; HybComm in Poseidon: Zhang et al., 2017), from the rows that it saw in the first step. All other
    parameters go by the collective, and so does a linear layer whose weight is frozen, tied, not used once in a step, or used in another way too. The
    exchange begins when backward has ended.
    """

    collective: Collective = option(Ring(), table=COLLECTIVES, help="the algorithm for all that does not go as factors")
    choice: Literal["auto", "always", "never"] = option(
        "auto", choices=("auto", "always", "never"), help="factors of a layer: where they are fewer bytes than the collective sends, always or never"
    )

    def check(self, size: int) -> None:
        """What the collective can do."""
        self.collective.check(size)

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. Watches the linear layers; what goes which way is agreed upon in the first step."""
        return Broadcast(self, comm, worker)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The collective's cost, which factors chosen by "auto" stay below; of one layer `factor_seconds` tells."""
        return self.collective.seconds(nbytes, size, network)


def factor_bytes(rows: int, shape: Sequence[int], size: int, itemsize: int = 4) -> int:
    """What a rank sends of the factors of a weight of `shape` (M, N) over `rows` rows: (P-1) K (M+N) numbers."""
    return (size - 1) * rows * sum(shape) * itemsize


def factor_seconds(rows: int, shape: Sequence[int], size: int, network: Network, flops: float = float("inf")) -> float:
    """Cost of one exchange of such factors, float32, and of the product 2 P K M N at `flops` operations a second."""
    if size == 1:
        return 0.0
    outputs, inputs = shape
    return network.seconds(factor_bytes(rows, shape, size)) + 2 * size * rows * outputs * inputs / flops


@final
class Broadcast(Exchange):
    """g <- mean of g over the workers: of some layers as the product of everyone's factors, of the others by the collective.

    Every rank multiplies the same factors in the same order, so replicas keep the same bits where processors and libraries are alike.
    """

    def __init__(self, strategy: SufficientFactors, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        self.strategy = strategy
        self.together = Together(comm, strategy.collective.one_at_a_time)
        self.plans: list[Planned] | None = None  # made in the first step
        self.layers: list[Layer] = []
        if comm.size > 1 and strategy.choice != "never":
            self.layers = linear_layers(worker.module, worker.arena)

    def before_update(self) -> None:
        """All at once, factors first; then each layer's product takes the place of its gradient."""
        if self.plans is None:
            self.plans = self._choose()
        for layer in self.layers:
            layer.fetch()
        factors = list(self._post())
        for plan in self.plans:
            self.together.begin(plan)
        self.together.wait(*factors)
        for layer in self.layers[:]:
            if layer.complete:
                layer.store()
                layer.multiply()
            else:
                self._give_up(layer)

    def finish(self) -> None:
        """Collective. Watch no longer."""
        for layer in self.layers:
            layer.close()

    def _post(self) -> Iterator[Request]:
        """All layers to all others at once, in an order in which no rank is everybody's first."""
        comm, size, rank = self.comm, self.comm.size, self.comm.rank
        for distance in range(1, size):
            source = (rank - distance) % size
            yield from (comm.irecv(layer.messages[source], source) for layer in self.layers)
        for distance in range(1, size):
            yield from (comm.isend(layer.messages[rank], (rank + distance) % size) for layer in self.layers)

    def _choose(self) -> list[Planned]:
        """Collective. Decide for each layer, by the most rows that any rank saw; plans for what remains."""
        size, choice = self.comm.size, self.strategy.choice
        told = np.array([[layer.rows, layer.other_way] for layer in self.layers], np.int64).reshape(-1, 2)
        if len(told):
            self.comm.wait(self.comm.iallreduce(told, "max"))
        chosen, notes = [], {}
        for layer, (rows, other_way) in zip(self.layers, told.tolist(), strict=True):
            factors = factor_bytes(rows, layer.shape, size, layer.itemsize)
            whole = self.strategy.collective.bytes_sent(layer.gradient.numel() * layer.itemsize, size) // size
            words = f"{layer.shape[0]}x{layer.shape[1]}, {rows} rows: "
            if other_way:
                words += "whole, since it is not used once in a step, or not as a linear layer alone"
            elif choice == "always" or factors < whole:
                words += f"factors, {megabytes(factors)} instead of {megabytes(whole)} a step"
                layer.prepare(self.comm, rows)
                chosen.append(layer)
            else:
                words += f"whole, {megabytes(whole)} a step; its factors would be {megabytes(factors)}"
            notes[layer.name] = words
            if layer not in chosen:
                layer.close()
        self.layers, self.notes = chosen, notes
        return [self._plan(index, gap) for index, gap in enumerate(gaps(self.worker.arena, self.layers))]

    def _plan(self, index: int, part: slice) -> Planned:
        return self.strategy.collective.plan(self.comm.channel(index), self.worker.arena.gradients[part])

    def _give_up(self, layer: Layer) -> None:
        """Collective: all have received the mark. From now on this layer goes by the collective; its own gradient is still whole."""
        assert self.plans is not None
        self.layers.remove(layer)
        layer.close()
        self.notes = {**self.notes, layer.name: f"whole from step {self.worker.step} on: a worker used it differently than in the first step"}
        self.plans.append(self._plan(len(self.plans), layer.part))
        self.plans[-1].run()


def gaps(arena: Arena, layers: Sequence[Layer]) -> list[slice]:
    """The gradients between those of `layers`, each as long as possible."""
    taken = sorted((layer.part.start, layer.part.stop) for layer in layers)
    edges = [(0, 0), *taken, (arena.gradients.numel(), 0)]
    return [slice(before[1], after[0]) for before, after in pairwise(edges) if before[1] < after[0]]


def megabytes(nbytes: int) -> str:
    """Bytes as a person reads them."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.1f} kB"
