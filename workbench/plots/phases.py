"""Where the time of a step goes on each rank: loading, computing, updating, exchanging."""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool
from bokeh.models.annotations import LegendItem

from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas, legend_above
from workbench.plots.colours import PHASE_COLOURS
from workbench.store import Rows
from workbench.telemetry import PHASES

RECENT: Final = 100
"""Steps of each rank over which the live bars are means."""

_COLUMNS = (*PHASES, "hidden")


@final
class PhasesPlot:
    """A bar per rank: its mean milliseconds per step, split by phase; over the latest steps, or (`recent=None`) over all."""

    def __init__(self, ranks: int = 1, recent: int | None = RECENT) -> None:
        over = "all steps" if recent is None else f"the last {recent} steps"
        self.root = canvas("phases", f"Time per step (mean of {over})", "rank", "ms per step")
        self.ranks, self._recent = ranks, recent
        self._window = np.zeros((ranks, recent or 0, len(_COLUMNS)), np.float32)
        self._sums = np.zeros((ranks, len(_COLUMNS)))
        self._seen = np.zeros(ranks, int)
        self.source = ColumnDataSource(self._empty())
        bars = self.root.vbar_stack(list(PHASES), x="rank", width=0.8, source=self.source, color=list(PHASE_COLOURS.values()), line_color=None)
        legend_above(self.root, [LegendItem(label=phase, renderers=[bar]) for phase, bar in zip(PHASES, bars, strict=True)])
        tips = [("rank", "@rank"), *((phase, f"@{phase}{{0,0.00}} ms") for phase in PHASES), ("together", "@total{0,0.00} ms")]
        self.root.add_tools(
            HoverTool(
                renderers=list(bars), visible=False, tooltips=[*tips, ("hidden behind compute", "@hidden{0,0.00} ms"), ("steps", "@steps{0,0}")]
            )
        )
        self.root.xaxis.ticker = BasicTicker(min_interval=1, desired_num_ticks=16)
        self.root.xgrid.visible = False
        self.root.y_range.start = 0

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of steps (n,)."""
        if not len(rows):
            return
        values = np.stack([rows[f"{name}_seconds"] for name in _COLUMNS], axis=1)
        rank = rows["rank"].astype(np.intp)
        if rank.max() >= self.ranks:
            self._grow(int(rank.max()) + 1)
        counts = np.bincount(rank, minlength=self.ranks)
        if self._recent is None:
            np.add.at(self._sums, rank, values)
        else:
            order = np.argsort(rank, kind="stable")
            nth = np.arange(len(rank)) - np.repeat(np.cumsum(counts) - counts, counts)  # the how manieth of its rank
            keep = nth >= np.repeat(counts, counts) - self._recent  # older ones would be overwritten at once
            order, nth = order[keep], nth[keep]
            self._window[rank[order], (self._seen[rank[order]] + nth) % self._recent] = values[order]
        self._seen += counts
        self._draw(np.flatnonzero(counts))

    def select(self, ranks: list[int]) -> None:
        """All ranks are shown anyway."""

    def _empty(self) -> dict[str, Any]:
        columns = {name: np.full(self.ranks, np.nan) for name in (*_COLUMNS, "total", "steps")}
        return {"rank": np.arange(self.ranks), **columns}

    def _grow(self, ranks: int) -> None:
        """There are more ranks than was thought."""
        before, more = self.ranks, ranks - self.ranks
        self._window = np.concatenate([self._window, np.zeros((more, *self._window.shape[1:]), np.float32)])
        self._sums = np.concatenate([self._sums, np.zeros((more, len(_COLUMNS)))])
        self._seen = np.append(self._seen, np.zeros(more, int))
        self.ranks = ranks
        columns = self._empty()
        for name, values in self.source.data.items():
            columns[str(name)][:before] = values
        self.source.data = columns

    def _draw(self, moved: Any) -> None:
        if self._recent is None:
            sums, steps = self._sums[moved], self._seen[moved]
        else:
            sums, steps = self._window[moved].sum(1, dtype=np.float64), np.minimum(self._seen[moved], self._recent)
        means = np.round(1e3 * sums / steps[:, None], 4)
        columns = {name: means[:, place] for place, name in enumerate(_COLUMNS)}
        columns["total"] = means[:, : len(PHASES)].sum(1).round(4)
        columns["steps"] = steps
        if len(moved) == self.ranks:
            self.source.patch({name: [(slice(0, self.ranks), values.tolist())] for name, values in columns.items()})
        else:
            self.source.patch({name: list(zip(moved.tolist(), values.tolist(), strict=True)) for name, values in columns.items()})
