"""The largest numbers alone, and memory for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np

from workbench.comm.base import Array, Communicator, Request
from workbench.comm.network import Network
from workbench.options import option
from workbench.wires.base import Averager, Compressor, Exchanged, Shape

LARGEST: Final = float(np.finfo(np.float32).max)
"""Of a number that is sent; what a float64 is beyond it waits."""

NUMBER_BYTES: Final = 8
"""Of a number that is sent: its place (int32) and its value (float32)."""

BLOCK: Final = 2048
"""Numbers that are looked through at once: NumPy makes a new array of the places that it finds, of a block 16 KB at most."""


@final
@dataclass(frozen=True)
class TopK(Compressor):
    """Deep Gradient Compression (Lin et al., 2018): of each segment only the numbers of largest magnitude are sent, and none is lost.

    Each rank gathers u <- mu u + g and v <- v + u, sends the largest of v with their places, and zeroes u and v there: what is not
    sent waits in v (error feedback), momentum is gathered before the choice (momentum correction) and does not push on
    what was sent already (momentum factor masking). Without `correction`, v <- v + g, and the optimizer's momentum
    works on the mean as it does with any wire. Messages go once around a ring, P-1 hops, unchanged; every rank sums
    them in the order of the ranks. One rank alone sends nothing and leaves its gradient as it is.
    """

    density: float = option(0.01, above=0, maximum=1, help="share of a segment's numbers that is sent; one number at least")
    correction: bool = option(True, help="gather momentum on each rank, before the choice, instead of after the mean")

    only_with: ClassVar[str] = "Ring"

    @property
    def gathers_momentum(self) -> bool:
        """With momentum correction."""
        return self.correction

    def count(self, length: int) -> int:
        """How many of `length` numbers are sent."""
        return min(length, max(1, round(self.density * length)))

    def compressed(
        self, comm: Communicator, numbers: Array, shapes: Sequence[Shape], average: Callable[[Array], Exchanged], momentum: Callable[[], float]
    ) -> Exchanged:
        """Looks at the segment as one vector, and brings its own all-gather."""
        if numbers.size > np.iinfo(np.int32).max:
            raise ValueError(f"{self} counts places in 32 bits: a segment must have at most 2147483647 numbers, got {numbers.size}; use bucket_bytes")
        return Sparse(comm, numbers, self.count(numbers.size), momentum if self.correction else None)

    def seconds(self, length: int, size: int, network: Network, collective: Averager, shapes: Sequence[Shape] = ()) -> float:
        """P-1 messages of k places and values, one after the other."""
        return (size - 1) * network.seconds(NUMBER_BYTES * self.count(length)) if length else 0.0

    def bytes_sent(self, length: int, size: int, collective: Averager, shapes: Sequence[Shape] = ()) -> int:
        """Every rank's message goes around once."""
        return size * (size - 1) * NUMBER_BYTES * self.count(length)


@final
class Sparse:
    """One segment's exchanges, and what it has not sent yet. All buffers are made here; of an exchange only the places in two
    blocks at a time are new (and of float64 numbers what NumPy needs to mix them with float32, 64 KB)."""

    def __init__(self, comm: Communicator, numbers: Array, count: int, momentum: Callable[[], float] | None) -> None:
        self.comm, self.numbers, self.count, self.momentum = comm, numbers, count, momentum
        self.waiting = np.zeros_like(numbers)
        """What was not sent yet: v in the paper, shape (n,)."""
        self.velocity = np.zeros_like(numbers) if momentum else None
        """Momentum of this rank's gradients: u in the paper."""
        bits = np.dtype(f"int{8 * numbers.itemsize}")
        self._magnitudes, self._sorted = np.empty(numbers.size, bits), np.empty(numbers.size, bits)
        self._large = np.empty(numbers.size, np.bool_)
        self._messages = np.zeros((comm.size, NUMBER_BYTES * count), np.uint8)
        self._places = self._messages[:, : 4 * count].view(np.int32)
        self._values = self._messages[:, 4 * count :].view(np.float32)
        self._chosen, self._taken = np.empty(count, np.intp), np.empty_like(numbers, shape=count)

    def steps(self) -> Iterator[tuple[Request, ...]]:
        """Gather and choose; pass everyone's message on around the ring; sum."""
        size, rank = self.comm.size, self.comm.rank
        right, left = (rank + 1) % size, (rank - 1) % size
        self._choose()
        for hop in range(size - 1):
            arriving = self.comm.irecv(self._messages[(rank - hop - 1) % size], left)
            yield arriving, self.comm.isend(self._messages[(rank - hop) % size], right)
        self._sum()

    @np.errstate(over="ignore", invalid="ignore")  # a diverged model shows in its loss
    def _choose(self) -> None:
        waiting, velocity = self.waiting, self.velocity
        if velocity is not None and self.momentum is not None:
            velocity *= self.momentum()
            velocity += self.numbers
            waiting += velocity
        else:
            waiting += self.numbers
        chosen, taken, values = self._chosen, self._taken, self._values[self.comm.rank]
        self._choose_largest()
        self._places[self.comm.rank] = chosen
        np.take(waiting, chosen, out=taken, mode="clip")  # NumPy would copy `out` to check places that are right
        np.clip(taken, -LARGEST, LARGEST, out=values) if taken.itemsize > values.itemsize else np.copyto(values, taken)
        taken -= values
        waiting[chosen] = taken  # zero, or what a float64 has lost on its way
        if velocity is not None:
            velocity[chosen] = 0

    def _choose_largest(self) -> None:
        """The places of the `count` numbers of largest magnitude; of equal ones the first."""
        magnitudes, first = self._magnitudes, self.numbers.size - self.count
        # without its sign, a float's bits are in the order of its size, NaN above all; whole numbers are sorted faster, too
        np.bitwise_and(self.waiting.view(magnitudes.dtype), np.iinfo(magnitudes.dtype).max, out=magnitudes)
        np.copyto(self._sorted, magnitudes)
        self._sorted.partition(first)
        threshold = self._sorted[first]
        larger = self._choose_from(np.greater(magnitudes, threshold, out=self._large), 0)
        self._choose_from(np.equal(magnitudes, threshold, out=self._large), larger)

    def _choose_from(self, large: Array, found: int) -> int:
        """Choose the first places at which `large`, shape (n,), is true, after those `found` before; how many there are then."""
        for start in range(0, large.size, BLOCK):
            places = large[start : start + BLOCK].nonzero()[0][: self.count - found]
            chosen = self._chosen[found : found + places.size]
            np.add(places, start, out=chosen)
            found += places.size
            if found == self.count:
                break
        return found

    @np.errstate(over="ignore", invalid="ignore")
    def _sum(self) -> None:
        """In the order of the ranks on all of them, so that all end with the same bits."""
        self.numbers.fill(0)
        for places, values in zip(self._places, self._values, strict=True):
            self._chosen[:] = places
            np.take(self.numbers, self._chosen, out=self._taken, mode="clip")
            self._taken += values
            self.numbers[self._chosen] = self._taken
        self.numbers /= self.comm.size
