"""Colours that people with colour-blindness can tell apart, on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bokeh.palettes import Viridis256

PHASE_COLOURS: Final = {"load": "#56b4e9", "compute": "#0072b2", "update": "#009e73", "exchange": "#e69f00"}
"""Phase of a step -> colour (Okabe and Ito, 2008)."""

GREY: Final = "#8a8a8a"
"""For what belongs to all ranks: readable on white and on black."""

FEW: Final = 8
"""Up to so many ranks every one has a colour of its own and a place in the legend."""
MANY: Final = 64
"""Beyond so many ranks a plot shows the band in which they are, and the ranks that are selected."""

_OWN = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")


def colours_of(ranks: int) -> list[str]:
    """A colour per rank: distinct ones for a few, a scale from the first rank to the last for many."""
    if ranks <= FEW:
        return [_OWN[rank % len(_OWN)] for rank in range(ranks)]
    # the yellow end of the scale cannot be seen on white, the dark one not on black
    return [Viridis256[40 + round(190 * rank / (ranks - 1))] for rank in range(ranks)]


def dashes_of(ranks: int) -> list[Sequence[int]]:
    """A dash pattern per rank: the second use of a colour is dashed."""
    return [[6, 3] if ranks <= FEW and rank >= len(_OWN) else [] for rank in range(ranks)]
