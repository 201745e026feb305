"""The plain wire: numbers travel as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.wires.base import Wire


@final
@dataclass(frozen=True)
class Float32(Wire):
    """Four bytes a number, nothing lost: messages are views of the buffer itself."""

    def nbytes(self, count: int) -> int:
        """Four bytes a number."""
        return 4 * count
