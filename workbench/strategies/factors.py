"""A linear layer that is watched: its inputs and the gradients of its outputs, whose product is the gradient of its weight."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from workbench.comm.base import Array, Communicator
from workbench.comm.staging import Staged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from workbench.arena import Arena, Segment


ROUNDING: Final = 2.0
"""Of sqrt(2K) eps times the sum of the magnitudes of K products, rounding is below 0.4 (0.7 where a side is 1). Hundreds of equal rows round
all the same way, and may come above: such a layer goes whole."""


def linear_layers(module: nn.Module, arena: Arena) -> list[Layer]:
    """The linear layers of a module whose weights are trained and belong to no other layer, watched from now on."""
    from torch import nn

    owners = Counter(id(p) for owner in module.modules() for p in owner._parameters.values() if p is not None)
    linear = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and type(layer).forward is nn.Linear.forward
        and (weight := layer._parameters.get("weight")) is not None
        and weight.requires_grad
    }
    named = {f"{name}.weight".lstrip("."): layer for name, layer in linear.items() if owners[id(layer.weight)] == 1}
    return [Layer(layer, arena.segments[name], arena) for name, layer in named.items()]


@final
class Layer:
    """The factors of one weight's gradient, (M, N): own ones as forward and backward pass by, and those of the other ranks.

    A rank's factors are one message of shape (K, M + N): in each row the gradient of the outputs beside the input. Rows that a step
    does not use are zero, and add nothing. Whether the product is what autograd says is looked at in every step, by other random sums of its rows
    (Freivalds, 1979). A step in which it is not, or which has more rows, is marked with a NaN, which all ranks receive alike. What stays
    unseen is small: a norm below about 2 sqrt(2K) eps sum_k |U_k| |V_k|, U_k and V_k being the rows of the factors, as large as the rounding may be.
    """

    def __init__(self, module: nn.Module, segment: Segment, arena: Arena) -> None:
        import torch

        self.name = segment.name
        self.part = slice(segment.start, segment.stop)
        self.shape = (segment.shape[0], segment.shape[1])
        self.gradient = arena.gradients[self.part].view(segment.shape)
        self.itemsize = self.gradient.element_size()
        self.calls = self.rows = 0  # of this step
        self.fits = True
        self._random = torch.Generator(self.gradient.device).manual_seed(segment.start)
        self.own: Tensor = self.gradient.new_zeros(0, sum(self.shape))
        self.ranks: list[Staged] = []
        self._hook = module.register_forward_hook(self._forward, with_kwargs=True)

    def prepare(self, comm: Communicator, rows: int) -> None:
        """Room for `rows` rows of every rank, which is all that is ever allocated; what has been seen of this step moves there."""
        self.rank = comm.rank
        factors = self.gradient.new_zeros(comm.size, rows, sum(self.shape))
        factors[comm.rank, : len(self.own)] = self.own
        self.own = factors[comm.rank]
        self.ranks = [Staged(each) for each in factors]
        self.messages: list[Array] = [staged.host for staged in self.ranks]
        together = factors.view(comm.size * rows, sum(self.shape))
        self._outputs, self._inputs = together[:, : self.shape[0]].t(), together[:, self.shape[0] :]

    @property
    def other_way(self) -> bool:
        """Whether in this step the weight was not used once, or its gradient is not the product of the factors."""
        return not (self.calls == 1 and self.rows and self.fits and self._explains())

    @property
    def complete(self) -> bool:
        """Whether the factors that have arrived are those of this step, on every rank."""
        return not any(np.isnan(message[0, 0]) for message in self.messages)

    def fetch(self) -> None:
        """Make the own message ready to be sent; the next step may begin."""
        if not self.calls:
            self.own.zero_()
        if not (self.fits and self._explains()):
            self.own[0, 0] = np.nan
        self.ranks[self.rank].fetch()
        self.calls, self.fits = 0, True

    def store(self) -> None:
        """Bring to the device what the others have sent."""
        for rank, staged in enumerate(self.ranks):
            if rank != self.rank:
                staged.store()

    def multiply(self) -> None:
        """The mean gradient: one product over the rows of all ranks, in the order of the ranks."""
        self.gradient.addmm_(self._outputs, self._inputs, beta=0, alpha=1 / len(self.ranks))

    def close(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _explains(self) -> bool:
        """Whether this rank's own gradient G is the product of its factors, U^T V: no other use of the weight, no penalty on it.

        A random combination r^T G of the rows is compared with (r^T U^T) V. It is one of K rows at a time, as many as the product has
        terms: longer sums would round more than the product does, and hide more. 2 M N + K M operations beside the product's K M N.
        """
        import torch

        norm = partial(torch.linalg.vector_norm, dtype=torch.float64)  # squares of what is tiny are not lost
        (height, width), terms = self.shape, len(self.own)
        outputs, inputs = self.own[:, :height], self.own[:, height:]
        random = torch.rand(height, generator=self._random, device=self.own.device, dtype=self.own.dtype).mul_(2).sub_(1)
        random += torch.copysign(random.new_tensor(0.5), random)  # either sign, from 0.5 to 1.5: no row is left out
        combined, off = outputs * random, random.new_zeros((), dtype=torch.float64)
        cut = height - height % terms
        for first, last, rows in ((0, cut, terms), (cut, height, height - cut)):
            if first < last:
                seen = random[first:last].view(-1, 1, rows) @ self.gradient[first:last].view(-1, rows, width)
                said = combined[:, first:last].reshape(terms, -1, rows).sum(2).t() @ inputs
                off = torch.hypot(off, norm(seen[:, 0] - said))
        limits = torch.finfo(self.own.dtype)
        magnitudes = (norm(outputs, dim=1) * norm(inputs, dim=1)).sum()
        lost = limits.tiny * math.sqrt(height * width)  # of what is too small for the format
        return bool(off <= ROUNDING * math.sqrt(2 * terms) * (limits.eps * magnitudes + lost))

    def _forward(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if not output.requires_grad:  # a validation
            return
        inputs: Tensor = given[0] if given else named["input"]
        self.calls += 1
        rows = output.numel() // self.shape[0]
        if not self.ranks and self.calls == 1:
            self.own = self.gradient.new_zeros(rows, sum(self.shape))
        if self.calls > 1 or rows > len(self.own):
            self.fits = False
            return
        self.rows = rows
        self.own[:rows, self.shape[0] :].view(inputs.shape).copy_(inputs.detach())
        self.own[:, : self.shape[0]].zero_()  # until backward comes, if it does
        self.own[rows:].zero_()
        output.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self.own[: self.rows, : self.shape[0]].view(gradient.shape).copy_(gradient.detach())
