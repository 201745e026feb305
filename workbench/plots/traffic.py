"""Who talked to whom: bytes and messages from each rank to each other one."""

from __future__ import annotations

from math import ceil, floor, inf, log2, log10
from typing import Any, Final, final

import numpy as np
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, LinearColorMapper, NumeralTickFormatter
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Cividis256

from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas
from workbench.plots.colours import MANY
from workbench.store import Rows

MB: Final = 1e6


@final
class TrafficPlot:
    """A field per pair of ranks, row by sender, coloured by the bytes of the whole run. Visible once a rank has sent something.

    Beyond `MANY` ranks a field stands for several that follow each other. Servers are ranks like others here.
    """

    def __init__(self, ranks: int = 1) -> None:
        self.root = canvas("traffic", "", "to rank", "from rank", visible=False)
        self._ranks, self._fields, self._each = 1, 1, 1
        self._sent, self._top = np.zeros((2, 1, 1)), 0.0
        self.source = ColumnDataSource(self._columns())
        # the dark end of the scale cannot be seen on black, nor the light one on white: both are cut off
        self._scale = LinearColorMapper(palette=list(Cividis256[40:230:2]), low=0, high=1, nan_color="rgba(0,0,0,0)")
        colour: Any = {"field": "megabytes", "transform": self._scale}
        fields = self.root.rect("to", "from", width="wide", height="wide", source=self.source, fill_color=colour, line_color=None)
        bar = ColorBar(color_mapper=self._scale, title="MB", formatter=NumeralTickFormatter(format="0,0.[000]"), width=10, padding=4)
        bar.background_fill_alpha = 0
        self.root.add_layout(bar, "right")
        tips = [("from", "@senders"), ("to", "@receivers"), ("sent", "@megabytes{0,0.000} MB"), ("messages", "@messages{0,0}")]
        self.root.add_tools(HoverTool(renderers=[fields], visible=False, tooltips=tips))
        for axis in (*self.root.xaxis, *self.root.yaxis):
            axis.ticker = BasicTicker(min_interval=1, desired_num_ticks=12)
        self.root.grid.visible = False
        self.root.y_range.flipped = True  # as a matrix is read
        self._fit(ranks)

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of traffic (k,), and of steps (n,) the number of ranks."""
        most = max((int(column.max()) for column in (rows["rank"], traffic["rank"], traffic["peer"]) if len(column)), default=0)
        if most >= self._ranks:
            self._fit(most + 1)
        traffic = traffic[traffic["rank"] != traffic["peer"]]
        if not len(traffic):
            return
        sender, receiver = traffic["rank"] // self._each, traffic["peer"] // self._each
        for sums, name in zip(self._sent, ("bytes", "messages"), strict=True):
            np.add.at(sums, (sender, receiver), traffic[name])
        self.root.visible = True
        top = _round(float(self._sent[0].max()) / MB)
        if top > self._top:
            self._scale.high = self._top = top
        moved = np.unique(sender * self._fields + receiver)
        values = self._shown()[:, moved]
        names = ("megabytes", "messages")
        self.source.patch({name: list(zip(moved.tolist(), column.tolist(), strict=True)) for name, column in zip(names, values, strict=True)})

    def select(self, ranks: list[int]) -> None:
        """All ranks are shown anyway."""

    def _fit(self, ranks: int) -> None:
        """There are more ranks than was thought: what was in a field goes to the one that it is in now."""
        old, fields, before = self._sent, self._fields, self._each
        self._ranks = max(ranks, self._ranks)
        self._each = 2 ** ceil(log2(max(1.0, self._ranks / MANY)))
        self._fields = -(-self._ranks // self._each)
        place = np.arange(fields) * before // self._each
        self._sent = np.zeros((2, self._fields, self._fields))
        for sums, told in zip(self._sent, old, strict=True):
            np.add.at(sums, (place[:, None], place[None, :]), told)
        self.root.title.text = f"Who talked to whom (fields of {self._each} ranks)" if self._each > 1 else "Who talked to whom"
        self.source.data = self._columns()

    def _shown(self) -> Any:
        """Megabytes and messages (2, fields * fields); NaN where nothing was sent."""
        values = self._sent.reshape(2, -1) / [[MB], [1]]
        return np.where(values[1] > 0, values, np.nan)

    def _columns(self) -> dict[str, Any]:
        each, count = self._each, self._fields
        middles = np.arange(count) * each + (each - 1) / 2
        names = [f"rank {low}" if each == 1 else f"ranks {low} to {min(low + each, self._ranks) - 1}" for low in range(0, count * each, each)]
        megabytes, messages = self._shown()
        return {
            "from": np.repeat(middles, count),
            "to": np.tile(middles, count),
            "wide": np.full(count * count, 0.94 * each),
            "senders": np.repeat(names, count).tolist(),
            "receivers": np.tile(names, count).tolist(),
            "megabytes": megabytes,
            "messages": messages,
        }


def _round(number: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ...: a scale that seldom changes."""
    if number <= 0:
        return 1.0
    power = 10.0 ** floor(log10(number))
    return min((step * power for step in (1, 2, 5, 10) if step * power >= number), default=inf)
