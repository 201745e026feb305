"""Backward, and when a bucket of its gradients is complete: at the end, or, for a strategy that wants it, while backward still computes.

Wait-free backpropagation (Zhang et al., "Poseidon", 2017). All ranks hand over their buckets in the order of the arena, whatever the
order in which gradients come; what never comes (a parameter that this batch did not use) is zero and handed over at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, final

from workbench.comm.base import Communicator
from workbench.strategies.base import Exchange, Strategy, Worker


class Charge(Protocol):
    """Moves a virtual clock by what a step has done."""

    def compute(self) -> None:
        """Forward and backward."""
        ...

    def backward(self, stops: Sequence[int]) -> Iterator[int]:
        """Forward and backward, in parts: yields k when the gradients before `stops[k]` are complete."""
        ...

    def update(self, share: float = 1.0) -> None:
        """The optimizer's update, of that share of the parameters."""
        ...


class Free:
    """Real ranks: nothing is charged."""

    def compute(self) -> None:
        """Has taken its time."""

    def backward(self, stops: Sequence[int]) -> Iterator[int]:
        """Has taken its time."""
        yield from range(len(stops))

    def update(self, share: float = 1.0) -> None:
        """Has taken its time."""


class Backward:
    """The backward of one rank; `exchange` hears of its buckets at the end of each.

    `hold` is called before a bucket is handed over while backward goes on: a slowed rank is late with each.
    """

    def __init__(self, worker: Worker, exchange: Exchange, buckets: Sequence[slice], charge: Charge, hold: Callable[[], None]) -> None:
        self.arena, self.exchange, self.buckets, self.charge, self.hold = worker.arena, exchange, buckets, charge, hold
        self.ready = 0
        """Buckets of this step that were handed over."""

    def __call__(self, loss: Any) -> None:
        """Compute the gradients of `loss`, shape ()."""
        loss.backward()
        self.arena.heal()
        self.charge.compute()

    def complete(self) -> None:
        """The gradients are complete: hand over the buckets that are left."""
        while self.ready < len(self.buckets):
            self.hand_over()
        self.ready = 0

    def hand_over(self) -> None:
        """The next bucket is complete."""
        self.ready += 1
        self.exchange.bucket_ready(self.ready - 1)


@final
class Charged(Backward):
    """On virtual ranks: backward has been done, and is charged part by part; a bucket is handed over when its part is."""

    def __call__(self, loss: Any) -> None:
        """Compute the gradients, then let the clock go through them."""
        loss.backward()
        self.arena.heal()
        for _ in self.charge.backward([bucket.stop for bucket in self.buckets]):
            self.hold()
            self.hand_over()


@final
class Hooked(Backward):
    """On real ranks: hooks count the gradients that have come. On a GPU they run on autograd's thread."""

    def __init__(
        self, worker: Worker, exchange: Exchange, buckets: Sequence[slice], charge: Charge, hold: Callable[[], None], comm: Communicator
    ) -> None:
        super().__init__(worker, exchange, buckets, charge, hold)
        self.comm = comm
        self.segments = tuple(self.arena.segments.values())[: len(self.arena.trainable)]
        self.within = [[k for k, b in enumerate(buckets) if b.start < s.stop and s.start < b.stop] for s in self.segments]
        """For each parameter, the buckets that hold a part of it."""
        self.members = [[index for index, parts in enumerate(self.within) if k in parts] for k in range(len(buckets))]
        self._begin()
        parameters: Any = self.arena.trainable
        self._handles = [p.register_post_accumulate_grad_hook(partial(self._arrived, index)) for index, p in enumerate(parameters)]

    def __call__(self, loss: Any) -> None:
        """Compute the gradients; buckets are handed over meanwhile."""
        loss.backward()
        for bucket in range(self.ready):
            self._unmoved(bucket)
        self.arena.heal()
        self.charge.compute()

    def complete(self) -> None:
        """Hand over what is left: buckets with a parameter that got no gradient."""
        super().complete()
        self._begin()

    def close(self) -> None:
        """Leave the parameters as they were."""
        for handle in self._handles:
            handle.remove()

    def hand_over(self) -> None:
        """The next bucket is complete: its gradients are in the arena, wherever user code has put them."""
        for index in self.members[self.ready]:
            self.arena.heal_gradient(index)
        super().hand_over()

    def _begin(self) -> None:
        self.missing = [set(members) for members in self.members]

    def _arrived(self, index: int, parameter: Any) -> None:
        for bucket in self.within[index]:
            if bucket < self.ready:
                raise self._late(index, "got a gradient again")
            self.missing[bucket].discard(index)
        while self.ready < len(self.buckets) and not self.missing[self.ready]:
            self.hold()
            self.hand_over()
        self.comm.test()

    def _unmoved(self, bucket: int) -> None:
        for index in self.members[bucket]:
            if self.arena.heal_gradient(index):
                raise self._late(index, "was given another .grad")

    def _late(self, index: int, what: str) -> ValueError:
        return ValueError(
            f"{self.segments[index].name} {what} when its gradient was being exchanged already; with overlap a step has one backward, "
            "that of the training loop: let the loss return the sum of all its parts, or give the strategy overlap=False"
        )


@contextmanager
def readiness(
    strategy: Strategy, comm: Communicator, worker: Worker, exchange: Exchange, charge: Charge | None, hold: Callable[[], None] = lambda: None
) -> Iterator[Backward]:
    """What a training calls instead of `loss.backward()`; `charge` is given on virtual ranks. Hooks are gone afterwards."""
    buckets = strategy.buckets(worker.arena)
    if not strategy.during_backward:
        yield Backward(worker, exchange, buckets, charge or Free(), hold)
    elif charge is not None:
        yield Charged(worker, exchange, buckets, charge, hold)
    else:
        hooked = Hooked(worker, exchange, buckets, Free(), hold, comm)
        try:
            yield hooked
        finally:
            hooked.close()
