"""Gradients of layers as products of two thin matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np

from workbench.comm.base import Array, Communicator, Request
from workbench.comm.network import Network
from workbench.options import option
from workbench.wires.base import Averager, Compressor, Exchanged, Shape


@final
@dataclass(frozen=True)
class PowerSGD(Compressor):
    """One step of power iteration towards the best approximation of low rank, with error feedback (Vogels, Karimireddy and Jaggi, 2019).

    Of each parameter seen as a matrix, first dimension x rest (n x m): M = g + e; P <- mean of M Q, made orthonormal; Q <- mean of
    M^T P; g <- P Q^T; e <- M - g. The next exchange begins with this Q. Two averages by the collective that was chosen, first of all P,
    then of all Q and all that is not worth it: parameters of one dimension, and matrices with rank (n + m) >= n m, which
    are averaged exactly. Momentum is the optimizer's. One rank alone sends nothing and leaves its gradient as it is.
    """

    rank: int = option(2, minimum=1, help="columns of the two factors of a layer's gradient")

    def compressed(
        self, comm: Communicator, numbers: Array, shapes: Sequence[Shape], average: Callable[[Array], Exchanged], momentum: Callable[[], float]
    ) -> Exchanged:
        """The thin matrices of all parameters, in two flat buffers."""
        if shapes and sum(map(prod, shapes)) != numbers.size:
            raise ValueError(f"shapes must be those of {numbers.size} numbers, got {[tuple(s) for s in shapes]} of {sum(map(prod, shapes))}")
        return LowRank(self, numbers, shapes or [numbers.shape], average)

    def shrinks(self, shape: Shape) -> bool:
        """Whether a parameter of this shape is fewer numbers as two thin matrices."""
        return len(shape) > 1 and self.rank * (shape[0] + prod(shape[1:])) < prod(shape)

    def lengths(self, length: int, shapes: Sequence[Shape]) -> tuple[int, int]:
        """How many numbers of a segment of `length` the first and the second average hold."""
        small = [shape for shape in shapes if self.shrinks(shape)]
        rest = length - sum(map(prod, small))
        return self.rank * sum(shape[0] for shape in small), self.rank * sum(prod(shape[1:]) for shape in small) + rest

    def seconds(self, length: int, size: int, network: Network, collective: Averager, shapes: Sequence[Shape] = ()) -> float:
        """The collective's cost of the two averages. Without shapes it is one vector, which is averaged exactly.

        With servers it is a bound: whoever has the first mean begins the second average while its server still sends it to others,
        which saves up to P-2 messages of it.
        """
        return sum(collective.seconds(4 * each, size, network) for each in self.lengths(length, shapes) if each)

    def bytes_sent(self, length: int, size: int, collective: Averager, shapes: Sequence[Shape] = ()) -> int:
        """What the collective sends in the two averages. Without shapes it is one vector, which is averaged exactly."""
        return sum(collective.bytes_sent(4 * each, size) for each in self.lengths(length, shapes))


@final
class Matrix:
    """One layer's gradient (n, m), its factors P (n, r) and Q (m, r), and what they have left out; all but the last views of flat buffers."""

    def __init__(self, gradient: Any, left: Any, right: Any, seed: int) -> None:
        import torch

        self.gradient, self.left, self.right = gradient, left, right
        self.error = torch.zeros_like(gradient)
        self._basis, self._triangle = torch.empty_like(left), left.new_empty(left.shape[1], left.shape[1])
        self._start = torch.from_numpy(np.random.default_rng(seed).standard_normal(right.shape)).to(right.dtype)  # alike on all ranks
        right.copy_(self._start)

    def multiply(self) -> None:
        """M <- g + e; P <- M Q."""
        import torch

        self.error.add_(self.gradient)
        torch.mm(self.error, self.right, out=self.left)

    def project(self) -> None:
        """Make the mean P orthonormal; Q <- M^T P. All ranks have the same P and so the same basis, however a library chooses its signs."""
        import torch

        torch.linalg.qr(self.left, out=(self._basis, self._triangle))
        torch.mm(self.error.T, self._basis, out=self.right)

    def restore(self) -> None:
        """g <- P Q^T with the mean Q; e <- M - g."""
        import torch

        torch.mm(self._basis, self.right.T, out=self.gradient)
        self.error.sub_(self.gradient)
        if not self.right.any():  # all gradients were zero; from a Q of zeros no other would ever be found
            self.right.copy_(self._start)


@final
class LowRank:
    """One segment's exchanges. All buffers are made here; an exchange allocates what the QR decompositions of the P need, no more."""

    def __init__(self, wire: PowerSGD, numbers: Array, shapes: Sequence[Shape], average: Callable[[Array], Exchanged]) -> None:
        import torch

        segment = torch.from_numpy(numbers)
        left, right = (segment.new_zeros(length) for length in wire.lengths(numbers.size, shapes))
        self.matrices: list[Matrix] = []
        self.exact: list[tuple[Any, Any]] = []
        """Of what is averaged exactly: its numbers, and their place in the second buffer."""
        start = lefts = rights = 0
        for shape in shapes:
            gradient = segment[start : start + prod(shape)]
            start += prod(shape)
            if wire.shrinks(shape):
                n, m, r = shape[0], prod(shape[1:]), wire.rank
                p, q = left[lefts : lefts + n * r].view(n, r), right[rights : rights + m * r].view(m, r)
                self.matrices.append(Matrix(gradient.view(n, m), p, q, seed=len(self.matrices)))
                lefts, rights = lefts + n * r, rights + m * r
            else:
                self.exact.append((gradient, right[rights : rights + len(gradient)]))
                rights += len(gradient)
        self.first, self.second = average(left.numpy()), average(right.numpy())

    def steps(self) -> Iterator[tuple[Request, ...]]:
        """Average the P, then the Q with all that travels as it is."""
        for matrix in self.matrices:
            matrix.multiply()
        yield from self.first.steps()
        for matrix in self.matrices:
            matrix.project()
        for numbers, place in self.exact:
            place.copy_(numbers)
        yield from self.second.steps()
        for matrix in self.matrices:
            matrix.restore()
        for numbers, place in self.exact:
            numbers.copy_(place)
