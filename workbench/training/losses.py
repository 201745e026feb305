"""What is minimised: the built-in loss, and "package.module:callable" for the user's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from workbench.callables import load_path
from workbench.training.loop import Loss


def cross_entropy(model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Mean cross-entropy of logits (b, classes) against int64 targets (b,); the accuracy too while validating."""
    inputs, targets = batch
    logits = model(inputs)
    metrics = {} if model.training else {"accuracy": (logits.argmax(1) == targets).float().mean()}
    return functional.cross_entropy(logits, targets), metrics


def loss_named(name: str) -> Loss:
    """The loss of a job; a user's own is held to (loss, metrics)."""
    if name == "cross-entropy":
        return cross_entropy
    function = load_path("loss", name)

    def checked(model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        told = function(model, batch)
        if not (isinstance(told, tuple) and len(told) == 2 and isinstance(told[0], Tensor) and isinstance(told[1], dict)):
            raise ValueError(f"loss {name!r} must return (loss, metrics), a tensor of shape () and a dict, got {told!r:.200}")
        if told[0].numel() != 1:
            raise ValueError(f"loss {name!r} must return one number as loss, got a tensor of shape {tuple(told[0].shape)}")
        accuracy = float(told[1].get("accuracy", 0.0))
        if not 0 <= accuracy <= 1:
            raise ValueError(f"loss {name!r} must give accuracy as a fraction from 0 to 1, got {accuracy:g}")
        return told

    return checked
