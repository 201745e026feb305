"""What a user's code may have set for all of torch: taken back before the next run, which would train differently otherwise."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch


def reset() -> None:
    """Set torch as it was at the first call, in this process; for the thread that trains, before each run."""
    for put, value in _first():
        put(value)


@functools.cache
def _first() -> list[tuple[Callable[[Any], Any], Any]]:
    cudnn = torch.backends.cudnn
    deterministic, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return [
        (torch.set_default_dtype, torch.get_default_dtype()),
        (_default_device, torch.get_default_device()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
        (torch.set_num_threads, torch.get_num_threads()),
        (lambda on: torch.use_deterministic_algorithms(on, warn_only=warn), deterministic),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled()),
        (lambda on: setattr(cudnn, "benchmark", on), cudnn.benchmark),
        (lambda on: setattr(cudnn, "deterministic", on), cudnn.deterministic),
    ]


def _default_device(device: torch.device) -> None:
    # a device that has been set slows each call, so it is only touched where user code has set one
    if torch.get_default_device() != device:
        with contextlib.suppress(RuntimeError):
            torch.set_default_device(None)
