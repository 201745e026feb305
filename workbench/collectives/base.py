"""How a flat buffer becomes the mean of all ranks: the algorithm as a value, the buffers of one run as a plan."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from workbench.collectives.agreement import agree
from workbench.collectives.planned import Planned as Planned
from workbench.collectives.planned import Steps as Steps
from workbench.collectives.simulated import check_simulated
from workbench.comm.base import Array, Communicator, Request
from workbench.comm.network import Network
from workbench.comm.staging import Staged, flat
from workbench.options import Options, entry
from workbench.wires import WIRES, Codec, Compressor, Float32, Wire
from workbench.wires.base import Coder, Shape
from workbench.wires.numbers import Numbers, OnHost, Resident, numbers

Part = int | tuple[int, int]
"""A chunk of the buffer, or the chunks from one to another (not included)."""

Span = tuple[int, int]
"""From one number of the buffer to another (not included)."""

SEALED: Final = -1  # in place of a slot: the whole buffer as it travels once it is the mean


class Plan(Planned):
    """One collective on one segment: what an algorithm says, and the buffers and views that every exchange uses again.

    The buffer is cut into `collective.parts(size)` chunks of nearly equal length. An algorithm first makes sums, with `send`, `receive` and
    `add`, or `merge`; then the owner of each part `seal`s it, which makes the sum the mean and writes it as it will travel;
    then the sealed parts go around with `share` and `take`, as they are, so that all ranks end with the same bits.
    Whatever the wire, the algorithm is the same. After the first exchange nothing is allocated.
    """

    def __init__(self, collective: Collective, comm: Communicator, segment: Any, codec: Codec) -> None:
        super().__init__(comm)
        self.collective, self.codec = collective, codec
        self.numbers: Numbers = Resident(segment, str(collective)) if collective.on_device else numbers(segment, codec)
        self.length, self.itemsize, self.path = self.numbers.length, self.numbers.itemsize, self.numbers.path
        agree(comm, self.length, self.itemsize, f"{collective} with {codec}")
        self.groups = collective.groups(comm)
        """The ranks that the algorithm lets act as one; empty: every rank is by itself."""
        self.parts = collective.parts(len(self.groups) or comm.size)
        blocks = -(-self.length // codec.block)
        self.offsets: list[int] = [min(part * blocks // self.parts * codec.block, self.length) for part in range(self.parts + 1)]
        """Where the chunks begin, and the end of the last; some are empty where the buffer has fewer numbers than chunks."""
        self._sealed = self.numbers.sealed()
        self._slots: dict[int, Array] = {}
        self._coders: dict[tuple[Span, int], Coder] = {}
        self._cut: dict[Part, list[Span]] = {}
        self._opened: set[int] = set()
        self._placed = 0  # numbers that were sealed or taken in this exchange
        self.connection: Any = collective.connect(self) if comm.size > 1 and self.length else None
        """What a library needs that carries the exchanges of this plan."""

    # what an algorithm says

    @property
    def buffer(self) -> Array:
        """The whole segment on the host, shape (n,): for a library that sums it, which takes an exact codec."""
        assert isinstance(self.numbers, OnHost)
        return self.numbers.host

    def send(self, part: Part, to: int, tag: int = 0) -> Request:
        """Send this rank's sum of a part."""
        coder = self._coder(self._span(part), SEALED)
        coder.encode()
        return self.comm.isend(coder.message, to, tag)

    def receive(self, part: Part, source: int, slot: int = 0, tag: int = 0) -> Request:
        """Receive another rank's sum of a part aside. What is received at the same time needs slots of its own, from 0."""
        return self.comm.irecv(self._coder(self._span(part), slot).message, source, tag)

    def add(self, part: Part, slot: int = 0) -> None:
        """Add what was received to this rank's sum of the part."""
        self._coder(self._span(part), slot).add()

    def set_aside(self, part: Part, slot: int) -> None:
        """Write this rank's own numbers of a part into a slot, as if they had been received."""
        self._coder(self._span(part), slot).encode()

    def replace(self, part: Part, slot: int = 0) -> None:
        """Begin this rank's sum of a part with what was received: a sum in the order of the ranks begins with those of the first."""
        self._coder(self._span(part), slot).decode()

    def merge(self, part: Part, source: int, give: Part, to: int, last: bool = False) -> Steps:
        """Send this rank's sum of `give`; receive another's sum of `part` and add it (the `last` one: seal it). Piece by piece:
        what has arrived is added while it is in the cache, and the next piece travels meanwhile.
        """
        mine, theirs = self._pieces(part), self._pieces(give)
        count = max(len(mine), len(theirs))

        def post(index: int) -> tuple[Request, ...]:
            arriving = (self.comm.irecv(self._coder(mine[index], index % 2).message, source),) if index < len(mine) else ()
            if index >= len(theirs):
                return arriving
            leaving = self._coder(theirs[index], SEALED)
            leaving.encode()
            return (*arriving, self.comm.isend(leaving.message, to))

        ahead = post(0)
        for index in range(count):
            now, ahead = ahead, post(index + 1) if index + 1 < count else ()
            yield now
            if index < len(mine):
                self._coder(mine[index], index % 2).add()
                if last:
                    self._seal(mine[index])

    def seal(self, part: Part) -> None:
        """This rank's sum of a part is that of all ranks: make it their mean, and write it as it will travel.

        Once, by one rank (or alike on several).
        """
        self._seal(self._span(part))

    def share(self, part: Part, to: int, tag: int = 0) -> Request:
        """Send a sealed part on, as it is."""
        return self.comm.isend(self._coder(self._span(part), SEALED).message, to, tag)

    def take(self, part: Part, source: int, tag: int = 0) -> Request:
        """Receive a sealed part into its place."""
        low, high = self._span(part)
        self._placed += high - low
        return self.comm.irecv(self._coder((low, high), SEALED).message, source, tag)

    def open(self, chunk: int) -> None:
        """Read a chunk that was taken, while others are on their way. What is not opened by an algorithm is at its end."""
        self._coder(self._span(chunk), SEALED).decode()
        self._opened.add(chunk)

    # what drives it

    def steps(self) -> Steps:
        """The exchange: posts messages and yields what must be complete before it goes on."""
        if self.comm.size > 1 and self.length:
            self._placed = 0
            yield self.numbers.fetching()
            yield from self.collective.steps(self)
            if self._placed != self.length and not self.collective.on_device:
                raise RuntimeError(f"{self.collective} must seal or take each of {self.length} numbers once, got {self._placed}")
            # the owner too keeps what it has sent
            left = [self._span(part) for part in range(self.parts) if part not in self._opened] if self._opened else [(0, self.length)]
            for span in left:
                self._coder(span, SEALED).decode()
            self._opened.clear()
            yield self.numbers.storing()

    def _seal(self, span: Span) -> None:
        self._placed += span[1] - span[0]
        coder = self._coder(span, SEALED)
        coder.divide(self.comm.size)
        coder.encode()

    def _span(self, part: Part) -> Span:
        return (self.offsets[part[0]], self.offsets[part[1]]) if isinstance(part, tuple) else (self.offsets[part], self.offsets[part + 1])

    def _pieces(self, part: Part) -> list[Span]:
        """A part in pieces of the size that this communicator likes; a part without numbers is one piece."""
        pieces = self._cut.get(part)
        if pieces is None:
            low, high = self._span(part)
            length = -(-(self.comm.piece_bytes or sys.maxsize) // (self.itemsize * self.codec.block)) * self.codec.block
            pieces = self._cut[part] = [(start, min(start + length, high)) for start in range(low, high, length)] or [(low, high)]
        return pieces

    def _coder(self, span: Span, slot: int) -> Coder:
        coder = self._coders.get((span, slot))
        if coder is None:
            coder = self._coders[span, slot] = self._made(*span, slot)
        return coder

    def _made(self, low: int, high: int, slot: int) -> Coder:
        codec = self.codec
        length = high - low if codec.exact else codec.nbytes(high - low, self.itemsize)
        if slot == SEALED:
            start = low if codec.exact else codec.nbytes(low, self.itemsize)
            return self.numbers.coder(low, high, self._sealed[start : start + length])
        space = self._slots.get(slot)
        if space is None or space.size < length:
            space = self._slots[slot] = self.numbers.aside(length)
        return self.numbers.coder(low, high, space[:length])


class Compressed(Planned):
    """A compressor's exchanges of one segment."""

    def __init__(
        self, collective: Collective, comm: Communicator, segment: Any, wire: Compressor, shapes: Sequence[Shape], momentum: Callable[[], float]
    ) -> None:
        super().__init__(comm)
        self.staged = Staged(flat(segment))
        self.length, self.itemsize, self.path = self.staged.host.size, self.staged.host.itemsize, self.staged.path
        agree(comm, self.length, self.itemsize, f"{collective} with {wire}")
        self.gathers_momentum = wire.gathers_momentum and comm.size > 1
        inner = comm.channel(0)
        self.exchanged = wire.compressed(comm, self.staged.host, shapes, lambda array: Plan(collective, inner, array, Float32()), momentum)

    def steps(self) -> Steps:
        """The compressor's own."""
        if self.comm.size > 1 and self.length:
            yield self.staged.fetching()
            yield from self.exchanged.steps()
            yield self.staged.storing()


@dataclass(frozen=True)
class Collective(Options, ABC):
    """An algorithm that leaves the mean of a flat buffer on every rank, in place, the same bits on all."""

    any_codec: ClassVar[bool] = True
    """Whether it writes its own messages, so that every codec goes with it; a library that sums them takes float32 only."""

    one_at_a_time: ClassVar[bool] = False
    """Whether an exchange begins only when the one before is over: a library's collectives have one order on all ranks."""

    real_only: ClassVar[bool] = False
    """Whether another library carries it over real links of its own, which nothing simulates."""

    on_device: ClassVar[bool] = False
    """Whether a library sums the numbers where they are, in a GPU's memory."""

    @abstractmethod
    def steps(self, plan: Plan) -> Steps:
        """The algorithm, written once for ranks that wait, ranks that compute meanwhile, and virtual ranks."""

    @abstractmethod
    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Seconds of one exchange of `nbytes`, as they travel, over `size` ranks of a `Network` (a preset: `Network.of("1G")`); no arithmetic."""

    def bytes_sent(self, nbytes: int, size: int) -> int:
        """What all ranks together send in one exchange of `nbytes`, as they travel: P-1 messages add up each number, P-1 spread its mean."""
        return 2 * (size - 1) * nbytes

    @abstractmethod
    def roundings(self, size: int) -> int:
        """How often a number is written on its longest way into the mean, the mean itself included.

        With a codec the result is off the exact mean by at most `roundings(P)` times the mean over the ranks of `codec.rounding(|x|)`.
        """

    def check(self, size: int) -> None:
        """Raise a ValueError, naming the sizes that do work, where this algorithm does not run on `size` ranks."""

    def check_wire(self, wire: Wire) -> None:
        """Raise a ValueError, naming what does work, where a wire does not go with this algorithm."""
        if isinstance(wire, Codec) and not (wire.exact or self.any_codec):
            raise ValueError(f"{self} sums what travels in a library, which takes float32 only; wire must be Float32(), got {wire}")
        if isinstance(wire, Compressor) and wire.only_with not in ("", type(self).__name__):
            raise ValueError(f"{wire} brings its own all-gather around a {wire.only_with.lower()}; collective must be {wire.only_with}(), got {self}")

    def parts(self, size: int) -> int:
        """How many chunks of (nearly) equal length a plan cuts the buffer into, for so many ranks (or groups of ranks)."""
        return size

    def groups(self, comm: Communicator) -> tuple[tuple[int, ...], ...]:
        """Collective, once when a plan is made. The ranks that act as one, group by group; empty: every rank is by itself."""
        return ()

    def connect(self, plan: Plan) -> Any:
        """Collective, once when a plan is made: the `plan.connection` of an algorithm that leaves the exchange to another library."""

    def plan(
        self,
        comm: Communicator,
        segment: Any,
        wire: Wire | str = "float32",
        shapes: Sequence[Shape] = (),
        momentum: Callable[[], float] = lambda: 0.0,
    ) -> Planned:
        """Collective, in order. Prepare exchanges of `segment`, a contiguous tensor or array of shape (n,).

        `shapes` are those of the parameters that lie in it, one after the other, and `momentum()` is what the optimizer has
        at an exchange; compressors look at them. Exchanges that are under way at the same time need plans on channels of
        their own. ValueError where the ranks do not bring the same.
        """
        self.check(comm.size)
        chosen: Wire = entry(WIRES, "wire", wire)
        self.check_wire(chosen)
        check_simulated(self, comm.simulated)
        if isinstance(chosen, Compressor):
            return Compressed(self, comm, segment, chosen, shapes, momentum)
        assert isinstance(chosen, Codec)
        return Plan(self, comm, segment, chosen)

    def reduce(self, comm: Communicator, buffer: Any, wire: Wire | str = "float32") -> None:
        """Collective. Leave the mean of all ranks' `buffer` in `buffer`, shape (n,): plan and run at once."""
        self.plan(comm, buffer, wire).run()
