"""One arena for a model: its parameters in one flat buffer, its gradients in another; layers are views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Trained(Protocol):
    """Parameters and their gradients, two tensors of shape (n,): an arena, or a part of one."""

    parameters: Tensor
    gradients: Tensor
    updated: Tensor
    """Where updated parameters go; often `parameters` itself."""


@dataclass(frozen=True)
class Segment:
    """Where one parameter or buffer lies: `state[start:stop]`, and the shape its layer sees."""

    name: str
    start: int
    stop: int
    shape: torch.Size


@dataclass(frozen=True)
class _Slot:
    """Where a layer keeps a tensor, and where in the arena it must lie."""

    name: str
    table: dict[str, Any]
    key: str
    tensor: Tensor
    view: Tensor
    address: int


class Arena:
    """A module's numbers as flat tensors of one dtype on one device.

    `state` (n + f + b,) holds first the n trainable `parameters`, in the order in which backward completes their
    gradients (the last layer first), then the f frozen ones, then the b numbers of float `buffers` (batch-norm
    statistics). `gradients` (n,) lines up with `parameters`, and every trainable `p.grad` is a view of it. An exchange
    works in place on slices of these; nothing is packed, unpacked or allocated per step. Integer buffers stay where they are:
    an answer has those of the worker that writes it down.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        named = list(module.named_parameters())  # tied parameters appear once
        trainable = [(name, p) for name, p in reversed(named) if p.requires_grad]
        frozen = [(name, p) for name, p in named if not p.requires_grad]
        if not trainable:
            raise ValueError(f"{type(module).__name__} has no parameters to train; a model needs at least one with requires_grad")
        buffers = [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]
        dtypes = {t.dtype for _, t in trainable + frozen + buffers}
        if dtypes not in ({torch.float32}, {torch.float64}):
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise ValueError(f"{type(module).__name__} holds {found}; its parameters and buffers must all be float32 (or all float64)")

        dtype, device = trainable[0][1].dtype, trainable[0][1].device
        self.segments: dict[str, Segment] = {}
        self._slots: list[_Slot] = []
        lengths = [sum(t.numel() for _, t in part) for part in (trainable, frozen, buffers)]
        self.state: Tensor = torch.empty(sum(lengths), dtype=dtype, device=device)
        self.parameters = self.updated = self.state[: lengths[0]]
        self.buffers = self.state[lengths[0] + lengths[1] :]
        self.gradients = torch.zeros(lengths[0], dtype=dtype, device=device)
        start = 0
        for name, tensor in trainable + frozen + buffers:
            stop = start + tensor.numel()
            self.segments[name] = Segment(name, start, stop, tensor.shape)
            view = self.state[start:stop].view(tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            path, _, key = name.rpartition(".")
            owner = module.get_submodule(path)
            self._slots.append(_Slot(name, owner._parameters if key in owner._parameters else owner._buffers, key, tensor, view, view.data_ptr()))
            start = stop
        self.trainable = tuple(p for _, p in trainable)
        """The parameters that are trained, in the order of their segments."""
        self._views = [self.gradients[s.start : s.stop].view(s.shape) for s in (self.segments[name] for name, _ in trainable)]
        self._bind()

    def within(self, part: slice) -> tuple[Segment, ...]:
        """The parameters and buffers that lie in a slice of `state` (of `gradients` alike), in order."""
        return tuple(segment for segment in self.segments.values() if part.start <= segment.start and segment.stop <= part.stop)

    def spare(self) -> Tensor:
        """A new tensor of the shape, dtype and device of `state`, for copies of it; its pages are touched."""
        return torch.zeros_like(self.state)

    def clear(self) -> None:
        """Zero the gradients before a backward."""
        self.gradients.zero_()

    def heal(self) -> bool:
        """After backward: bring back what user code has moved out of the arena; whether there was anything.

        `zero_grad(set_to_none=True)`, `p.grad = ...`, `p.data = ...` and `self.buffer = ...` leave a layer with a tensor of
        its own; an exchange would then train on stale numbers. A parameter that was replaced by another one cannot be
        brought back: ValueError.
        """
        moved = False
        for slot in self._slots:
            tensor = slot.table[slot.key]
            if tensor is slot.tensor and tensor.data_ptr() == slot.address:
                continue
            moved = True
            if tensor is None or tensor.shape != slot.view.shape or (tensor is not slot.tensor and isinstance(slot.tensor, nn.Parameter)):
                raise ValueError(
                    f"{slot.name} was replaced by another tensor while training; change it in place: with torch.no_grad(): {slot.name}.copy_(...)"
                )
            slot.view.copy_(tensor.detach())
            slot.tensor.data = slot.view
            slot.table[slot.key] = slot.tensor
        for index in range(len(self.trainable)):
            moved = self.heal_gradient(index) or moved
        return moved

    def heal_gradient(self, index: int) -> bool:
        """Bring back the gradient of `trainable[index]`, and only that; whether it was elsewhere. None stands for zeros."""
        parameter, view = self.trainable[index], self._views[index]
        gradient = parameter.grad
        if gradient is view:
            return False
        if gradient is None:
            view.zero_()
        else:
            view.copy_(gradient)
        parameter.grad = view
        return True

    def _bind(self) -> None:
        for p, view in zip(self.trainable, self._views, strict=True):
            p.grad = view
