"""What a simulated network cannot carry: exchanges that another library makes over links of its own."""

from __future__ import annotations

import dataclasses
from typing import Any


def check_simulated(value: Any, simulated: str) -> None:
    """ValueError if `value`, or any option inside it, is a collective for real links only, while the network is `simulated`, in words."""
    if simulated and getattr(value, "real_only", False):
        raise ValueError(f"{value} runs over real links of its own, not on {simulated}; collective must be another one, like Native() or Ring()")
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            check_simulated(getattr(value, field.name), simulated)
