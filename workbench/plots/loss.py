"""Loss per rank over the steps, and the loss on the validation set."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import LegendItem

from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas, legend_above
from workbench.plots.bins import SLOTS, Bins, changed
from workbench.plots.colours import GREY
from workbench.plots.lines import RankLines
from workbench.store import Rows


@final
class LossPlot:
    """Each rank's mean loss per `width` steps: single steps at first, means of 2, 4, 8 ... when the run gets long.

    The diamonds are the loss on the validation set, of the answer of all ranks (rank -1) or of a rank's own model.
    """

    def __init__(self, ranks: int = 1) -> None:
        self.root = canvas("loss", "Loss", "step", "loss")
        self._bins = Bins(ranks, 1.0)
        self._lines = RankLines(self.root, ranks, SLOTS, ("step", "0,0"), ("loss", "0.0000"))
        self.validation = ColumnDataSource({"step": [], "loss": [], "accuracy": [], "model": []})
        points = self.root.scatter(
            "step", "loss", source=self.validation, marker="diamond", size=13, fill_color="white", line_color=GREY, line_width=2
        )
        self.root.add_tools(
            HoverTool(
                renderers=[points],
                visible=False,
                tooltips=[("validation of", "@model"), ("step", "@step{0,0}"), ("loss", "@loss{0.0000}"), ("accuracy", "@accuracy{0.0 %}")],
            )
        )
        self._points = LegendItem(label="validation", renderers=[points])
        self._replace()

    @property
    def source(self) -> ColumnDataSource:
        """What is drawn of the ranks."""
        return self._lines.source

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of steps (n,) and of validation (m,)."""
        if len(rows):
            joined = self._fit(rows)
            slot = (rows["step"] // self._bins.width).astype(np.intp)
            rank = rows["rank"].astype(np.intp)
            self._bins.add(rank, slot, rows["loss"].astype(np.float64))
            if joined:
                self._replace()
            else:
                self._lines.patch(self._bins.means(), *changed(rank, slot, slot, self._lines.ranks, SLOTS))
        if len(validation):
            self._validated(validation)

    def select(self, ranks: list[int]) -> None:
        """Beyond 64 ranks: show the lines of these."""
        self._lines.select(ranks)

    def _fit(self, rows: Rows) -> bool:
        """Make room for rows; whether all has to be drawn again."""
        ranks = int(rows["rank"].max()) + 1
        if grown := ranks > self._lines.ranks:
            self._bins.grow(ranks)
            self._lines.grow(ranks)
        return self._bins.fit(float(rows["step"].max())) or grown

    def _replace(self) -> None:
        legend_above(self.root, [*self._lines.legend, self._points])
        width = self._bins.width
        said = [f"mean of {width:g} steps"] if width > 1 else []
        said += [self._lines.colours] if self._lines.colours else []
        self.root.title.text = f"Loss ({', '.join(said)})" if said else "Loss"
        # a slot stands at the middle of its steps
        self._lines.replace(np.arange(SLOTS) * width + (width - 1) / 2, self._bins.means())

    def _validated(self, rows: Rows) -> None:
        news: dict[str, Any] = {
            "step": rows["step"].tolist(),
            "loss": [loss if np.isfinite(loss) else float("nan") for loss in rows["loss"].tolist()],
            "accuracy": rows["accuracy"].tolist(),
            "model": ["all ranks" if rank < 0 else f"rank {rank}" for rank in rows["rank"].tolist()],
        }
        if len(self.validation.data["step"]) + len(rows) <= SLOTS:
            self.validation.stream(news)
            return
        # too many for the eye: every other one goes, the newest stay
        old: dict[str, Any] = {name: [*self.validation.data[name], *values] for name, values in news.items()}
        while len(old["step"]) > SLOTS:
            old = {name: values[::-2][::-1] for name, values in old.items()}
        self.validation.data = old
