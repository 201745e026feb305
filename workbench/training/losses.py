"""What is minimised: the built-in loss, and "package.module:callable" for the user's own."""

from __future__ import annotations

from typing import Any

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
    """The loss of a job."""
    return cross_entropy if name == "cross-entropy" else load_path("loss", name)
