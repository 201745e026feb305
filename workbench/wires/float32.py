"""The plain wire: numbers travel as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from workbench.comm.base import Array
from workbench.wires.base import Codec, Coder


@final
@dataclass(frozen=True)
class Float32(Codec):
    """Nothing is lost: messages are views of the buffer itself, four bytes a number (eight in a float64 arena)."""

    exact: ClassVar[bool] = True

    def nbytes(self, length: int, itemsize: int = 4) -> int:
        """As many as in memory."""
        return length * itemsize

    def coder(self, numbers: Array, message: Array) -> Coder:
        """Nothing is written: a part's own message is the part."""
        return AsItIs(numbers, message)

    def rounding(self, magnitudes: Array) -> Array:
        """None."""
        return np.zeros_like(magnitudes)


@final
class AsItIs:
    """Numbers that are their own message, or are added to another array of their kind."""

    __slots__ = ("_apart", "message", "numbers")

    def __init__(self, numbers: Array, message: Array) -> None:
        self.numbers, self.message = numbers, message
        self._apart = not np.may_share_memory(numbers, message)

    def encode(self) -> None:
        """Nothing to do, unless the message is another array."""
        if self._apart:
            np.copyto(self.message, self.numbers)

    def decode(self) -> None:
        """Nothing to do, unless the message is another array."""
        if self._apart:
            np.copyto(self.numbers, self.message)

    def add(self) -> None:
        """One pass."""
        np.add(self.numbers, self.message, out=self.numbers)

    def divide(self, divisor: int) -> None:
        """One pass; by a power of two as a product, which is as exact and several times as fast."""
        if divisor & (divisor - 1):
            np.divide(self.numbers, divisor, out=self.numbers)
        else:
            np.multiply(self.numbers, 1 / divisor, out=self.numbers)
