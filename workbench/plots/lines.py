"""One line per rank over a common grid; beyond 64 ranks a band, its mean, and the ranks that are selected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, HoverTool, TapTool
from bokeh.models.annotations import LegendItem

from workbench.plots.colours import FEW, GREY, MANY, colours_of, dashes_of

Array = npt.NDArray[Any]


@final
class RankLines:
    """Draws values (ranks, slots) in a figure, as one glyph, and sends only the slots that have changed.

    The arrays in the browser have a fixed length; slots without a value are NaN, which neither is drawn nor widens
    the axes. `tooltips` are (label, format) for the horizontal and the vertical value.
    """

    def __init__(self, root: Any, ranks: int, slots: int, across: tuple[str, str], along: tuple[str, str]) -> None:
        self.root, self.ranks, self.slots = root, ranks, slots
        self._tips = [("rank", "@rank"), (across[0], f"$snap_x{{{across[1]}}}"), (along[0], f"$snap_y{{{along[1]}}}")]
        self._grid = np.full(slots, np.nan, np.float32)
        self._values = np.full((ranks, slots), np.nan, np.float32)
        self.renderers: list[Any] = []
        self._tools: list[Any] = []
        self._begin()

    def grow(self, ranks: int) -> None:
        """There are more ranks than was thought: draw anew, in the manner for so many."""
        more = np.full((ranks - self.ranks, self.slots), np.nan, np.float32)
        self._values = np.concatenate([self._values, more])
        self.ranks = ranks
        self.root.renderers = [renderer for renderer in self.root.renderers if renderer not in self.renderers]
        self.root.tools = [tool for tool in self.root.tools if tool not in self._tools]
        self._begin()

    def _begin(self) -> None:
        few, others = self.ranks <= FEW, list(self.root.renderers)
        self.shown = list(range(self.ranks)) if self.ranks <= MANY else [0]
        self.source = ColumnDataSource(self._columns())
        lines = self.root.multi_line(
            "xs",
            "ys",
            source=self.source,
            line_color="colour",
            line_dash="dash",
            line_width=2 if few else 1.2,
            line_alpha=0.9 if few else 0.6,
            hover_line_color="colour",
            hover_line_width=4,
            hover_line_alpha=1,
            selection_line_width=3,
            nonselection_line_alpha=0.15,
        )
        self.renderers = [lines]
        self.legend = [LegendItem(label={"field": "label"}, renderers=[lines])] if few else []
        self.band: ColumnDataSource | None = None
        if self.ranks > MANY:
            self.band = ColumnDataSource(self._band_columns())
            area = self.root.varea("x", "low", "high", source=self.band, fill_color=GREY, fill_alpha=0.3)
            mean = self.root.line("x", "mean", source=self.band, line_color=GREY, line_width=2)
            self.renderers += [area, mean]
            self.legend += [
                LegendItem(label=f"lowest to highest of {self.ranks} ranks", renderers=[area]),
                LegendItem(label="mean", renderers=[mean]),
            ]
        self.root.renderers = [*self.renderers, *others]
        hover = HoverTool(renderers=[lines], line_policy="nearest", tooltips=self._tips, visible=False)
        self._tools = [hover, TapTool(renderers=[lines], visible=False)]
        self.root.add_tools(*self._tools)

    @property
    def colours(self) -> str:
        """The words for a title that say how the colours are to be read, where no legend does."""
        return f"ranks 0 to {self.ranks - 1} from blue to yellow" if FEW < self.ranks <= MANY else ""

    def select(self, ranks: Iterable[int]) -> None:
        """Show these ranks beside the band; without a band all are shown anyway."""
        wanted = [rank for rank in dict.fromkeys(ranks) if 0 <= rank < self.ranks]
        if self.band is not None and wanted != self.shown:
            self.shown = wanted
            self.source.data = self._columns()

    def replace(self, grid: Array, values: Array) -> None:
        """Draw everything anew: `grid` (slots,) and `values` (ranks, slots)."""
        self._grid = grid.astype(np.float32)
        self._values = _drawable(values)
        self.source.data = self._columns()
        if self.band is not None:
            self.band.data = self._band_columns()

    def patch(self, values: Array, low: Array, high: Array, grid: Array | None = None) -> None:
        """Draw what has changed: of rank r the slots from low[r] up to high[r]; `values` (ranks, slots). A `grid` (slots,) moves them."""
        moved = np.flatnonzero(low < high)
        if not len(moved):
            return
        start, end = int(low[moved].min()), int(high[moved].max())
        self._values[:, start:end] = _drawable(values[:, start:end])
        if grid is not None:
            self._grid[start:end] = grid[start:end]
        places = {rank: place for place, rank in enumerate(self.shown)}
        parts = [(rank, places[rank], slice(int(low[rank]), int(high[rank]))) for rank in moved.tolist() if rank in places]
        if parts:
            patches = {"ys": [((place, part), self._values[rank, part].tolist()) for rank, place, part in parts]}
            if grid is not None:
                patches["xs"] = [((place, part), self._grid[part].tolist()) for _, place, part in parts]
            self.source.patch(patches)
        if self.band is not None:
            columns = self._band_columns(slice(start, end))
            names = ("low", "high", "mean") if grid is None else ("x", "low", "high", "mean")
            self.band.patch({name: [(slice(start, end), columns[name].tolist())] for name in names})

    def _columns(self) -> dict[str, Any]:
        colours, dashes = colours_of(self.ranks), dashes_of(self.ranks)
        return {
            "xs": [self._grid.copy() for _ in self.shown],
            "ys": [self._values[rank].copy() for rank in self.shown],
            "rank": list(self.shown),
            "label": [f"rank {rank}" for rank in self.shown],
            "colour": [colours[rank] for rank in self.shown],
            "dash": [dashes[rank] for rank in self.shown],
        }

    def _band_columns(self, part: slice = slice(None)) -> dict[str, Any]:
        """Lowest, highest and mean value of the ranks that have one, for some slots."""
        values = self._values[:, part]
        known = ~np.isnan(values)
        counts = known.sum(0)
        none = counts == 0
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(known, values, 0).sum(0, dtype=np.float64) / counts
        low = np.where(none, np.nan, np.where(known, values, np.inf).min(0))
        high = np.where(none, np.nan, np.where(known, values, -np.inf).max(0))
        return {"x": self._grid[part].copy(), "low": low.astype(np.float32), "high": high.astype(np.float32), "mean": mean.astype(np.float32)}


def _drawable(values: Array) -> Array:
    """As float32, without the infinities, which would widen an axis for ever."""
    with np.errstate(over="ignore"):
        drawn = values.astype(np.float32)
    drawn[~np.isfinite(drawn)] = np.nan
    return drawn
