"""What is trained: the table of built-in models, and "package.module:callable" for the user's own.

A built-in is a value: its fields are the `model_options` of a job, `build` makes the module. Importing this module does
not import torch, so that a job can be checked without it.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import numpy as np

from workbench.callables import call, check_path, load_path
from workbench.options import Options, option, unknown_name

if TYPE_CHECKING:
    from torch import nn


class Facts(Protocol):
    """What a model needs to know of the data; a `data.Split` is one."""

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one input without the batch, None where the data does not say."""
        ...

    @property
    def classes(self) -> int | None:
        """Number of classes, None where the data does not say."""
        ...


class Model(Options, ABC):
    """A built-in model: a value whose fields are its options."""

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A new module for inputs of (batch, *input_shape); returns logits of shape (batch, classes)."""


@final
@dataclass(frozen=True)
class MLP(Model):
    """Fully connected layers with ReLU between them; on the digits 64-64-10, 4810 parameters."""

    hidden: tuple[int, ...] = option((64,), unit="units", help="width of each hidden layer")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("MLP", "hidden", self.hidden, at_least=0)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A new module for inputs of any shape, flattened."""
        from torch import nn

        widths = [prod(input_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


@final
@dataclass(frozen=True)
class CNN(Model):
    """3x3 convolutions with ReLU, each followed by a 2x2 maximum, and one linear layer."""

    channels: tuple[int, ...] = option((16, 32), unit="channels", help="channels after each convolution")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("CNN", "channels", self.channels, at_least=1)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A new module for images (channels, height, width); each side at least 2 ** len(channels)."""
        from torch import nn

        inputs, height, width = image_shape("cnn", input_shape, at_least=2 ** len(self.channels))
        layers: list[nn.Module] = []
        for outputs in self.channels:
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            inputs, height, width = outputs, height // 2, width // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, classes))


@final
@dataclass(frozen=True)
class ResNet20(Model):
    """The residual network of 20 layers for small images (He, Zhang, Ren and Sun, 2016): 270 000 parameters, batch norm."""

    width: int = option(16, minimum=1, unit="channels", help="channels of the first stage; the next two double them")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        """A new module for images (channels, height, width); each side at least 4."""
        from workbench.presets.resnet20 import resnet20

        channels, _, _ = image_shape("resnet20", input_shape, at_least=4)
        return resnet20(channels, classes, self.width)


MODELS: Final[Mapping[str, type[Model]]] = {"mlp": MLP, "cnn": CNN, "resnet20": ResNet20}


def check(model: str, options: Mapping[str, Any]) -> None:
    """ValueError for a name that is in no table, or an option the built-in model does not have. Imports no user code."""
    if ":" in model:
        check_path("model", model)
    elif model not in MODELS:
        raise ValueError(unknown_name("model", model, MODELS) + ', or "package.module:callable"')
    else:
        MODELS[model].from_json(options)


def build(model: str, options: Mapping[str, Any], facts: Facts, seed: int) -> nn.Module:
    """A new module, the same for the same seed, on the CPU.

    `model` is a name of `MODELS` or "package.module:callable"; a user's callable gets the options, and `input_shape`
    and `classes` as keywords where it has parameters of these names. The global random state stays as it was.
    """
    import torch

    check(model, options)
    with torch.random.fork_rng(devices=[]), _seeded(seed):
        torch.manual_seed(seed)
        if model in MODELS:
            if facts.input_shape is None or facts.classes is None:
                raise ValueError(f"model {model!r} needs input_shape and classes of the data; set both on the data's callable or its datasets")
            module: Any = MODELS[model].from_json(options).build(facts.input_shape, facts.classes)
        else:
            function = load_path("model", model)
            module = call("model", model, function, options, {"input_shape": facts.input_shape, "classes": facts.classes})
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"model {model!r} must return a torch.nn.Module, got {type(module).__name__}")
    if not any(p.requires_grad and p.numel() for p in module.parameters()):
        raise ValueError(f"model {model!r} has no parameters to train: {type(module).__name__} is a model without parameters")
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's and Python's global random numbers from `seed` inside, as they were afterwards: a user's model may draw from them."""
    kept = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])


def image_shape(what: str, shape: tuple[int, ...], at_least: int) -> tuple[int, int, int]:
    """`shape` as (channels, height, width), or a ValueError that says what `what` needs."""
    if len(shape) != 3 or min(shape[1:]) < at_least:
        raise ValueError(f"model {what!r} needs images (channels, height, width) of at least {at_least}x{at_least}, got input_shape {shape}")
    return shape[0], shape[1], shape[2]


def check_counts(owner: str, field: str, given: tuple[Any, ...], at_least: int) -> None:
    """ValueError unless `given` holds whole numbers of at least 1, and at least so many of them."""
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in given) if isinstance(given, tuple) else False
    if not whole or len(given) < at_least:
        raise ValueError(f"{owner}({field}={given!r}): {field} must be a list of whole numbers of at least 1, got {given!r}")
