"""What a wire is: how numbers are written in messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from workbench.comm.base import Array, Communicator, Request
from workbench.comm.network import Network
from workbench.options import Options

Shape = Sequence[int]


class Averager(Protocol):
    """What a wire must know of the collective that it travels with: its costs for `nbytes` of messages."""

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Cost of one exchange."""
        ...

    def bytes_sent(self, nbytes: int, size: int) -> int:
        """What all ranks together send in one exchange."""
        ...


@dataclass(frozen=True)
class Wire(Options, ABC):
    """How numbers travel. Whatever the wire, all ranks end an exchange with the same bits."""

    @abstractmethod
    def seconds(self, length: int, size: int, network: Network, collective: Averager, shapes: Sequence[Shape] = ()) -> float:
        """Seconds of one exchange of `length` float32 numbers, parameters of `shapes`, by `collective` on a `Network`; no arithmetic."""

    @abstractmethod
    def bytes_sent(self, length: int, size: int, collective: Averager, shapes: Sequence[Shape] = ()) -> int:
        """What all ranks together send in such an exchange."""


class Coder(Protocol):
    """Some numbers, and the message in which they travel: two fixed pieces of memory, so that coding allocates nothing."""

    message: Array

    def encode(self) -> None:
        """Write the numbers into the message."""

    def decode(self) -> None:
        """Replace the numbers by what the message says."""

    def add(self) -> None:
        """Add what the message says to the numbers."""

    def divide(self, divisor: int) -> None:
        """Divide the numbers, in place."""


@dataclass(frozen=True)
class Codec(Wire):
    """An elementwise wire: each message is written by itself, so it goes with every collective that sums its own messages.

    Sums are made in the precision of the buffer; only messages are narrow.
    """

    exact: ClassVar[bool] = False
    """Whether a message is the numbers themselves: nothing is written, nothing is lost."""
    block: ClassVar[int] = 1
    """Numbers that are written together; what a collective cuts begins at a multiple of it."""
    kernel: ClassVar[str | None] = None
    """Of `KERNELS`: how a GPU writes them; None: they are brought to the host for that."""

    @abstractmethod
    def nbytes(self, length: int, itemsize: int = 4) -> int:
        """Bytes in which `length` numbers of `itemsize` bytes travel. Of lengths cut at multiples of `block`, the bytes add up."""

    @abstractmethod
    def coder(self, numbers: Array, message: Array) -> Coder:
        """The coder of `numbers`, shape (n,), and `message`, shape (nbytes(n),) of uint8 (an exact codec: like `numbers`)."""

    @abstractmethod
    def rounding(self, magnitudes: Array) -> Array:
        """The most that each number can change when numbers of at most these magnitudes, shape (n,), are written once."""

    def seconds(self, length: int, size: int, network: Network, collective: Averager, shapes: Sequence[Shape] = ()) -> float:
        """The collective's cost for messages of this width."""
        return collective.seconds(self.nbytes(length), size, network)

    def bytes_sent(self, length: int, size: int, collective: Averager, shapes: Sequence[Shape] = ()) -> int:
        """The collective's bytes for messages of this width."""
        return collective.bytes_sent(self.nbytes(length), size)


class Exchanged(Protocol):
    """Something that is exchanged over and over: a plan."""

    def steps(self) -> Iterator[tuple[Request, ...]]:
        """Post messages and yield what must be complete before going on."""
        ...


@dataclass(frozen=True)
class Compressor(Wire):
    """A wire that looks at a whole segment at once, sends less than all of it and remembers what it left out.

    It has an exchange of its own, in which a collective may average something smaller.
    """

    only_with: ClassVar[str] = ""
    """The one collective that this wire goes with, by the name of its class; empty: any of them averages what it is asked to."""

    @property
    def gathers_momentum(self) -> bool:
        """Whether what it leaves is momentum already, gathered on each rank, which an update must not gather again."""
        return False

    @abstractmethod
    def compressed(
        self, comm: Communicator, numbers: Array, shapes: Sequence[Shape], average: Callable[[Array], Exchanged], momentum: Callable[[], float]
    ) -> Exchanged:
        """Collective. Exchanges of `numbers`, shape (n,), on the host: parameters of `shapes`, one after the other (none: one vector).

        `average(array)` plans an exact average of another flat array by the collective that was chosen. `momentum()` is
        what the optimizer has at an exchange. Where there is one rank or no number, nothing is ever exchanged.
        """
