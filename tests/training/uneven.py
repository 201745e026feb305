"""Models and losses whose gradients come as overlap does not expect them, named in jobs of the tests as "tests.training.uneven:...";
and the exchanges that must not mind.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.collectives import PORTABLE
from workbench.wires import WIRES


class Uneven(nn.Module):
    """Layers that are not used in the order in which they are declared; one frozen, one tied, one used by some batches only, one by none."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(24, classes)
        self.unused = nn.Linear(7, 5)
        self.first = nn.Linear(inputs, 24)
        self.tied = nn.Linear(24, 24)
        self.sometimes = nn.Linear(24, 24)
        self.frozen = nn.Linear(24, 24).requires_grad_(False)
        self.again = nn.Linear(24, 24)
        self.again.weight = self.tied.weight

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x.flatten(1)))
        x = functional.relu(self.frozen(self.tied(x)))
        if self.training and float(x[0].sum().detach()) * 1e3 % 2 < 1:  # differs from rank to rank
            x = x + self.sometimes(x)
        return self.last(self.again(x))


def uneven(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Uneven(int(torch.Size(input_shape).numel()), classes)


def forgetful(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
    """Leaves the parameters without a .grad: backward makes new ones, outside the arena."""
    if model.training:
        model.zero_grad(set_to_none=True)
    return plain(model, batch)


def twice(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
    """Calls backward itself, before the training loop does."""
    if model.training:
        plain(model, batch)[0].backward()
    return plain(model, batch)


def plain(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets), {}


class InBackward(torch.autograd.Function):
    """Does something in the middle of backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, what: Any) -> Tensor:
        ctx.what = what
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.what()
        return gradients[0], None


class Breaking(nn.Module):
    """Fails in backward, after the last layer's gradients have come, at the given step (of those ranks that are told to)."""

    told = False
    seconds = 0.0

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.last, self.steps = nn.Linear(inputs, 64), nn.Linear(64, classes), 0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(InBackward.apply(self.first(x.flatten(1)), self.fail))

    def fail(self) -> None:
        self.steps += 1
        time.sleep(self.seconds)
        if self.told and self.steps == 3:
            raise RuntimeError("out of luck")


def breaking(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Breaking(int(torch.Size(input_shape).numel()), classes)


def exchanges(size: int) -> list[dict[str, Any]]:
    """Every bucket size, every collective that works on so many ranks, every wire; and a wire of several collectives of the library."""
    found: list[dict[str, Any]] = [{"bucket_bytes": limit} for limit in (1, 3000, 10**9)]
    for name, made in PORTABLE.items():
        with contextlib.suppress(ValueError):
            made().check(size)
            found.append({"bucket_bytes": 3000, "collective": name})
    found += [{"bucket_bytes": 3000, "wire": name} for name in WIRES]
    return [*found, {"bucket_bytes": 1, "collective": "native", "wire": "power-sgd"}]
