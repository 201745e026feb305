"""The plain wire: numbers travel as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.wires.base import Wire


@final
@dataclass(frozen=True)
class Float32(Wire):
    """Nothing is lost: messages are views of the buffer itself, four bytes a number (eight in a float64 arena)."""
