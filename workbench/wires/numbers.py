"""Where the numbers of a plan are coded: on the host, or on the device that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from workbench.comm.base import Array, Request
from workbench.comm.staging import Staged, flat
from workbench.wires.base import Codec, Coder


class Numbers(Protocol):
    """The numbers of a segment, and the messages in which a codec writes them."""

    length: int
    itemsize: int
    path: str
    """How they reach MPI, in words."""

    def coder(self, low: int, high: int, message: Array) -> Coder:
        """Of the numbers from one to another (not included)."""

    def sealed(self) -> Array:
        """Memory for the messages of the whole segment."""

    def aside(self, length: int) -> Array:
        """Memory for a message that is received aside, so many bytes (of an exact codec: numbers)."""

    def fetching(self) -> tuple[Request, ...]:
        """Begin an exchange of what the rank has computed so far: what must be complete before the numbers are coded."""

    def storing(self) -> tuple[Request, ...]:
        """End it: what must be complete before the rank uses the numbers."""


@final
class OnHost:
    """Numbers in host memory, or brought there from the device at full width."""

    def __init__(self, segment: Any, codec: Codec) -> None:
        self.staged, self.codec = Staged(flat(segment)), codec
        self.host = self.staged.host
        self.length, self.itemsize, self.path = self.host.size, self.host.itemsize, self.staged.path
        self.fetching, self.storing = self.staged.fetching, self.staged.storing

    def coder(self, low: int, high: int, message: Array) -> Coder:
        """The codec's own."""
        return self.codec.coder(self.host[low:high], message)

    def sealed(self) -> Array:
        """Of an exact codec the numbers themselves."""
        return self.host if self.codec.exact else np.zeros(self.codec.nbytes(self.length, self.itemsize), np.uint8)

    def aside(self, length: int) -> Array:
        """New memory."""
        return np.zeros(length, self.host.dtype if self.codec.exact else np.uint8)


@final
class Resident:
    """Numbers that stay in a GPU's memory, for a library that sums them there: nothing is coded."""

    path = "in the device's memory"

    def __init__(self, segment: Any, whose: str) -> None:
        device = getattr(segment, "device", None)
        if getattr(device, "type", "cpu") != "cuda":
            raise ValueError(
                f"{whose} needs one GPU per rank, and the numbers of this one are on {device or 'the host'}; "
                "start the cluster where each rank has a GPU, or take a collective like Native() or Ring()"
            )
        self.tensor = segment
        self.length, self.itemsize = segment.numel(), segment.element_size()

    def coder(self, low: int, high: int, message: Array) -> Coder:
        """Its messages are the library's."""
        return Uncoded(message)

    def sealed(self) -> Array:
        """None."""
        return np.zeros(0, np.uint8)

    def aside(self, length: int) -> Array:
        """None."""
        return np.zeros(0, np.uint8)

    def fetching(self) -> tuple[Request, ...]:
        """They are there."""
        return ()

    def storing(self) -> tuple[Request, ...]:
        """They are there."""
        return ()


@final
@dataclass
class Uncoded:
    """Numbers that no codec writes."""

    message: Array

    def encode(self) -> None:
        """Nothing to do."""

    def decode(self) -> None:
        """Nothing to do."""

    def add(self) -> None:
        """Nothing to do."""

    def divide(self, divisor: int) -> None:
        """Nothing to do."""


def numbers(segment: Any, codec: Codec) -> Numbers:
    """The numbers of a segment, a contiguous tensor or array of shape (n,): on the device where that spares the bus."""
    if codec.kernel is not None and getattr(getattr(segment, "device", None), "type", "cpu") == "cuda":
        from workbench.wires import kernels

        if kernels.missing() is None and kernels.serve(segment):
            return kernels.OnDevice(segment, codec)
    return OnHost(segment, codec)
