"""Samples per second of each rank, and of all together, over the time of the run."""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, LinearAxis, NumeralTickFormatter
from bokeh.models.annotations import LegendItem

from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas, legend_above
from workbench.plots.bins import SLOTS, Bins, changed
from workbench.plots.colours import GREY
from workbench.plots.lines import RankLines
from workbench.store import Rows
from workbench.telemetry import PHASES

SILENCE: Final = 5.0
"""Seconds after which a rank that has sent no more steps counts as doing nothing in the total."""


@final
class ThroughputPlot:
    """Samples per second of each rank (left axis) and their sum (right axis), in slots of equal time.

    The samples of a step are spread evenly over its time, from `start_seconds` for as long as its phases took; in a pause
    or a validation there are none. A rank's slot is drawn once the rank has passed it, the total once all ranks that have
    been heard have (or are silent).
    """

    def __init__(self, ranks: int = 1) -> None:
        # the ranks' lines get more room above them than their sum, which would else lie on them when all are equally fast
        self.root = canvas(
            "throughput", "Throughput", "seconds since the start of the run", "samples/s per rank", y_range=DataRange1d(start=0, range_padding=0.4)
        )
        self._bins = Bins(ranks, 1e-5)
        self._begins = np.full(ranks, np.inf)
        self._ends = np.full(ranks, -np.inf)
        self._longest = 0.0
        self._drawn = np.zeros(ranks, int)
        self._summed = 0
        self._lines = RankLines(self.root, ranks, SLOTS, ("seconds", "0,0.00"), ("samples/s", "0,0"))
        self.total = ColumnDataSource({"x": np.full(SLOTS, np.nan), "y": np.full(SLOTS, np.nan)})
        sums = self.root.line("x", "y", source=self.total, y_range_name="total", line_color=GREY, line_width=3, level="underlay")
        self.root.extra_y_ranges = {"total": DataRange1d(start=0, renderers=[sums])}
        self.root.add_layout(LinearAxis(y_range_name="total", axis_label="samples/s of all ranks"), "right")
        self.root.yaxis.formatter = NumeralTickFormatter(format="0,0")
        self.root.add_tools(HoverTool(renderers=[sums], visible=False, tooltips=[("all ranks", "@y{0,0} samples/s"), ("at", "@x{0,0.0} s")]))
        self._all = LegendItem(label="all ranks (right axis)", renderers=[sums])
        self._replace()

    @property
    def source(self) -> ColumnDataSource:
        """What is drawn of the ranks."""
        return self._lines.source

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of steps (n,)."""
        if not len(rows):
            return
        rank = rows["rank"].astype(np.intp)
        start = np.maximum(rows["start_seconds"], 0.0)
        wall = np.sum([rows[f"{phase}_seconds"] for phase in PHASES], axis=0, dtype=np.float64)
        end = start + np.maximum(wall, 0.0)
        self._longest = max(self._longest, float(wall.max()))
        joined = self._grow(int(rank.max()) + 1)
        joined = self._bins.fit(float(end.max())) or joined
        first, last = self._spread(rank, start, end, rows["samples"].astype(np.float64))
        np.minimum.at(self._begins, rank, start)
        np.maximum.at(self._ends, rank, end)
        if joined:
            self._replace()
        else:
            self._patch(*changed(rank, first, last, self._lines.ranks, SLOTS))

    def select(self, ranks: list[int]) -> None:
        """Beyond 64 ranks: show the lines of these."""
        self._lines.select(ranks)

    def _spread(self, rank: Any, start: Any, end: Any, samples: Any) -> tuple[Any, Any]:
        """Add each step's samples to the slots it lasted over, by their share of its time; (first, last) slot of each."""
        width = self._bins.width
        first = np.minimum(start // width, SLOTS - 1).astype(np.intp)
        last = np.minimum(end // width, SLOTS - 1).astype(np.intp)
        parts = last - first + 1
        row = np.repeat(np.arange(len(rank)), parts)
        slot = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
        inside = np.minimum(end[row], (slot + 1) * width) - np.maximum(start[row], slot * width)
        whole = (end - start)[row]
        share = np.divide(inside, whole, out=np.ones(len(row)), where=whole > 0)
        self._bins.add(rank[row], slot, samples[row] * share)
        return first, last

    def _rates(self) -> Any:
        """Samples per second, (ranks, slots); NaN where a rank has not begun or not been to the end of the slot."""
        edges = np.arange(SLOTS + 1) * self._bins.width
        there = (edges[1:] <= self._ends[:, None]) & (edges[1:] > self._begins[:, None])
        return np.where(there, self._bins.sums / self._bins.width, np.nan)

    def _complete(self) -> int:
        """How many slots all ranks that are not silent have passed."""
        newest = self._ends.max()
        if not np.isfinite(newest):
            return 0
        heard = self._ends >= newest - max(SILENCE, 3 * self._longest)
        return int(min(SLOTS, self._ends[heard].min() // self._bins.width))

    def _sums(self, part: slice) -> Any:
        """Samples per second of all ranks; NaN before the first of them began."""
        begun = np.arange(SLOTS)[part] * self._bins.width + self._bins.width > self._begins.min()
        return np.where(begun, self._bins.sums[:, part].sum(0) / self._bins.width, np.nan)

    def _grow(self, ranks: int) -> bool:
        more = max(0, ranks - self._lines.ranks)
        if more:
            self._bins.grow(ranks)
            self._lines.grow(ranks)
            self._begins = np.append(self._begins, np.full(more, np.inf))
            self._ends = np.append(self._ends, np.full(more, -np.inf))
        return more > 0

    def _replace(self) -> None:
        legend_above(self.root, [*self._lines.legend, self._all])
        self.root.title.text = f"Throughput ({self._lines.colours})" if self._lines.colours else "Throughput"
        self.root.y_range.renderers = self._lines.renderers  # the left axis is that of the ranks alone
        grid = (np.arange(SLOTS) + 0.5) * self._bins.width
        self._lines.replace(grid, self._rates())
        self._drawn = np.minimum(np.nan_to_num(self._ends, neginf=0.0) // self._bins.width, SLOTS).astype(int)
        self._summed = self._complete()
        sums = self._sums(slice(None))
        sums[self._summed :] = np.nan
        self.total.data = {"x": grid, "y": sums}

    def _patch(self, low: Any, high: Any) -> None:
        passed = np.minimum(np.nan_to_num(self._ends, neginf=0.0) // self._bins.width, SLOTS).astype(int)
        # a slot that was reached earlier is drawn now that it has been passed
        self._lines.patch(self._rates(), np.minimum(low, self._drawn), np.minimum(high, passed))
        start, end = min(int(low.min()), self._summed), self._complete()
        self._drawn, self._summed = passed, max(end, self._summed)
        if start < self._summed:
            part = slice(start, self._summed)
            self.total.patch({"y": [(part, self._sums(part).tolist())]})
