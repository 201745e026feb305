"""Eight bits in transit, with a scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np

from workbench.comm.base import Array
from workbench.wires.base import Codec, Coder

SCALE_BYTES: Final = 4
LEVELS: Final = 127
SMALLEST: Final = float(np.finfo(np.float32).tiny)  # of a scale: a block of zeros has one too


@final
@dataclass(frozen=True)
class Int8(Codec):
    """One byte a number and one float32 scale per block of 256: x is sent as round(127 x / max |x| of the block).

    Uniform quantization per block (after Dettmers, 2016, and Alistarh et al., 2017, without their random rounding). A
    block that holds an infinite number or no number (NaN) arrives as NaN, so that a diverged model shows.
    """

    block: ClassVar[int] = 256
    kernel: ClassVar[str | None] = "int8"

    def nbytes(self, length: int, itemsize: int = 4) -> int:
        """A byte a number, four per block that has begun."""
        return length + SCALE_BYTES * -(-length // self.block)

    def coder(self, numbers: Array, message: Array) -> Coder:
        """Whole blocks as the rows of a matrix, the last one by itself."""
        return Quantized(numbers, message, self.block)

    def rounding(self, magnitudes: Array) -> Array:
        """Half a level of the block's largest number (and a little: the scale is a float32 itself)."""
        bounds = np.empty_like(magnitudes)
        for low in range(0, magnitudes.size, self.block):
            bounds[low : low + self.block] = magnitudes[low : low + self.block].max() / (2 * LEVELS) * (1 + 1e-4) + SMALLEST
        return bounds


@final
class Quantized:
    """Numbers and the message that holds, block after block, a scale and as many bytes as numbers."""

    __slots__ = ("_numbers", "_parts", "message")

    def __init__(self, numbers: Array, message: Array, block: int) -> None:
        import torch

        self.message, self._numbers = message, torch.from_numpy(numbers)
        whole = numbers.size // block
        cut, rest = whole * block, numbers.size - whole * block
        self._parts: list[tuple[Any, Any, Any, Any, Any]] = []
        for low, high, rows, width in ((0, cut, whole, block), (cut, numbers.size, 1, rest)):
            if low < high:
                start = low // block * (block + SCALE_BYTES)
                piece = message[start : start + rows * (width + SCALE_BYTES)]
                scales = torch.from_numpy(np.ndarray((rows, 1), np.float32, piece.data, strides=(block + SCALE_BYTES, 4)))
                codes = torch.from_numpy(np.ndarray((rows, width), np.int8, piece.data, SCALE_BYTES, (block + SCALE_BYTES, 1)))
                matrix = self._numbers[low:high].view(rows, width)
                self._parts.append((matrix, scales, codes, torch.empty_like(matrix), torch.empty(rows, 1, dtype=matrix.dtype)))

    def encode(self) -> None:
        """Scale each block to its largest number and round to nearest."""
        import torch

        for matrix, scales, codes, scratch, tops in self._parts:
            torch.amax(torch.abs(matrix, out=scratch), dim=1, keepdim=True, out=tops)
            scales.copy_(tops).div_(LEVELS).clamp_(min=SMALLEST)
            codes.copy_(torch.div(matrix, scales, out=scratch).round_().nan_to_num_(0.0, LEVELS, -LEVELS).clamp_(-LEVELS, LEVELS))

    def decode(self) -> None:
        """Codes times their scale."""
        for matrix, scales, codes, _, _ in self._parts:
            matrix.copy_(codes).mul_(scales)

    def add(self) -> None:
        """Decode aside, then add."""
        for matrix, scales, codes, scratch, _ in self._parts:
            matrix.add_(scratch.copy_(codes).mul_(scales))

    def divide(self, divisor: int) -> None:
        """One pass."""
        self._numbers.div_(divisor)
