"""A run of any length in a fixed number of slots: when they are full, two and two become one."""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SLOTS: Final = 400
"""Slots of a plot: of a long run 200 to 400 are in use, which is about one per pixel of two."""


@final
class Bins:
    """Sums and counts of a quantity by rank and slot. Slot k covers positions from k * width to (k + 1) * width.

    `width` doubles whenever a position lies behind the last slot, so the whole run is always there. Memory does not grow.
    """

    def __init__(self, ranks: int, width: float, slots: int = SLOTS) -> None:
        self.width = width
        self.sums = np.zeros((ranks, slots))
        self.counts = np.zeros((ranks, slots))

    @property
    def slots(self) -> int:
        """Number of slots; even."""
        return self.sums.shape[1]

    def grow(self, ranks: int) -> None:
        """Room for more ranks."""
        more = np.zeros((ranks - len(self.sums), self.slots))
        self.sums, self.counts = np.concatenate([self.sums, more]), np.concatenate([self.counts, more])

    def fit(self, position: float) -> bool:
        """Make room for a position; whether slots were joined, so that everything has to be drawn again. ValueError for one without an end."""
        if not np.isfinite(position):
            raise ValueError(f"a position must be finite, got {position}")
        joined = False
        while position >= self.width * self.slots:
            for values in (self.sums, self.counts):
                values[:, : self.slots // 2] = values[:, ::2] + values[:, 1::2]
                values[:, self.slots // 2 :] = 0
            self.width *= 2
            joined = True
        return joined

    def add(self, rank: Array, slot: Array, values: Array) -> None:
        """Count values in: all arguments of shape (n,)."""
        np.add.at(self.sums, (rank, slot), values)
        np.add.at(self.counts, (rank, slot), 1)

    def means(self) -> Array:
        """Sum over count, (ranks, slots); NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums / self.counts


def changed(rank: Array, first: Array, last: Array, ranks: int, slots: int) -> tuple[Array, Array]:
    """From which slot up to which (exclusive) each rank has changed, (ranks,); where low >= high it has not.

    `rank`, `first` and `last` (inclusive) have shape (n,).
    """
    low, high = np.full(ranks, slots), np.zeros(ranks, int)
    np.minimum.at(low, rank, first)
    np.maximum.at(high, rank, last + 1)
    return low, high
