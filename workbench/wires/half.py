"""Sixteen bits in transit, float32 in sums: half precision and brain floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np

from workbench.comm.base import Array
from workbench.wires.base import Codec, Coder

BLOCK: Final = 1 << 18  # numbers widened at a time: a megabyte, which stays in the cache


@dataclass(frozen=True)
class Half(Codec):
    """Two bytes a number. Every message is rounded to nearest; sums are made in float32."""

    dtype: ClassVar[str]
    relative: ClassVar[float]
    """Half the distance of neighbours, as a share of the number."""
    absolute: ClassVar[float]
    """Half the distance of the smallest neighbours."""

    def nbytes(self, length: int, itemsize: int = 4) -> int:
        """Two bytes a number."""
        return 2 * length

    def coder(self, numbers: Array, message: Array) -> Coder:
        """Casts by torch, which is ten times faster at it than NumPy."""
        return Cast(numbers, message, self.dtype)

    def rounding(self, magnitudes: Array) -> Array:
        """Half a unit in the last place."""
        return self.relative * magnitudes + self.absolute


@final
@dataclass(frozen=True)
class Float16(Half):
    """Half precision in transit: 11 significant bits, up to 65504; what is larger becomes infinite.

    With `AllToAll` this is ASA16 of Theano-MPI (Ma, Mao and Taylor, 2016): two roundings. A ring rounds at every hop.
    """

    dtype: ClassVar[str] = "float16"
    kernel: ClassVar[str | None] = "float16"
    relative: ClassVar[float] = 2.0**-11
    absolute: ClassVar[float] = 2.0**-25


@final
@dataclass(frozen=True)
class BFloat16(Half):
    """Brain floats in transit: 8 significant bits and the range of float32, so nothing overflows.

    MPI does not know them: they travel as bytes and are never summed by the library.
    """

    dtype: ClassVar[str] = "bfloat16"
    kernel: ClassVar[str | None] = "bfloat16"
    relative: ClassVar[float] = 2.0**-8
    absolute: ClassVar[float] = 2.0**-134


@final
class Cast:
    """Numbers and their 16-bit message, as torch sees both."""

    __slots__ = ("_narrow", "_numbers", "_wide", "message")

    def __init__(self, numbers: Array, message: Array, dtype: str) -> None:
        import torch

        self.message = message
        self._numbers = torch.from_numpy(numbers)
        self._narrow = torch.from_numpy(message.view(np.int16)).view(getattr(torch, dtype))
        self._wide: Any = None  # made when something is first added

    def encode(self) -> None:
        """Round to nearest."""
        self._narrow.copy_(self._numbers)

    def decode(self) -> None:
        """Widen."""
        self._numbers.copy_(self._narrow)

    def add(self) -> None:
        """Widen a block and add it: torch would widen all into new memory."""
        length = len(self._numbers)
        if self._wide is None:
            self._wide = self._numbers.new_empty(min(BLOCK, length))
        for low in range(0, length, BLOCK):
            part = self._numbers[low : low + BLOCK]
            part.add_(self._wide[: len(part)].copy_(self._narrow[low : low + BLOCK]))

    def divide(self, divisor: int) -> None:
        """One pass."""
        self._numbers.div_(divisor)
