"""How old what each rank has applied was, over its steps."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from bokeh.models import ColumnDataSource

from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas, legend_above
from workbench.plots.bins import SLOTS, Bins, changed
from workbench.plots.lines import RankLines
from workbench.store import Rows


@final
class StalenessPlot:
    """Per `width` steps the mean staleness of those that applied something old; 0 where none did. Visible once one did."""

    def __init__(self, ranks: int = 1) -> None:
        self.root = canvas("staleness", "Staleness", "step", "updates or steps old", visible=False)
        self._steps, self._late = Bins(ranks, 1.0), Bins(ranks, 1.0)
        self._lines = RankLines(self.root, ranks, SLOTS, ("step", "0,0"), ("old by", "0.0"))
        self._replace()

    @property
    def source(self) -> ColumnDataSource:
        """What is drawn of the ranks."""
        return self._lines.source

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of steps (n,)."""
        if not len(rows):
            return
        joined = self._fit(int(rows["rank"].max()) + 1, float(rows["step"].max()))
        rank, slot = rows["rank"].astype(np.intp), (rows["step"] // self._steps.width).astype(np.intp)
        old = rows["staleness"].astype(np.float64)
        late = old > 0
        self._steps.add(rank, slot, old)
        self._late.add(rank[late], slot[late], old[late])
        shown, self.root.visible = self.root.visible, self.root.visible or bool(late.any())
        if joined or self.root.visible != shown:
            self._replace()
        elif shown:  # what nobody sees is not sent
            self._lines.patch(self._means(), *changed(rank, slot, slot, self._lines.ranks, SLOTS))

    def select(self, ranks: list[int]) -> None:
        """Beyond 64 ranks: show the lines of these."""
        self._lines.select(ranks)

    def _means(self) -> Any:
        return np.where(self._steps.counts > 0, self._late.sums / np.maximum(self._late.counts, 1), np.nan)

    def _fit(self, ranks: int, step: float) -> bool:
        """Make room for rows; whether all has to be drawn again."""
        if grown := ranks > self._lines.ranks:
            for bins in (self._steps, self._late):
                bins.grow(ranks)
            self._lines.grow(ranks)
        joined = [bins.fit(step) for bins in (self._steps, self._late)]
        return any(joined) or grown

    def _replace(self) -> None:
        legend_above(self.root, self._lines.legend)
        width = self._steps.width
        said = ["0: nothing of others"] if width == 1 else [f"mean of {width:g} steps, fresh ones left out"]
        said += [self._lines.colours] if self._lines.colours else []
        self.root.title.text = f"Staleness ({', '.join(said)})"
        self._lines.replace(np.arange(SLOTS) * width + (width - 1) / 2, self._means())
