"""What a wire is: how a number is written in a message."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.options import Options


@dataclass(frozen=True)
class Wire(Options):
    """How numbers travel. Whatever the wire, all ranks must end an exchange with the same bits."""
