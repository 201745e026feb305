"""What all plots have in common."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.models.annotations import Legend, LegendItem
from bokeh.plotting import figure

from workbench.store import Rows
from workbench.telemetry import TRAFFIC, VALIDATION

NO_VALIDATION: Final[Rows] = np.empty(0, VALIDATION)
NO_TRAFFIC: Final[Rows] = np.empty(0, TRAFFIC)


class Plot(Protocol):
    """A figure of one run that grows with its records.

    `source` holds what is drawn, `root` is the figure; both are Bokeh models, whoever shows them puts `root` into a
    document. A plot that is not of every run is not visible, and takes no room, until it has something to show.
    For one thread at a time: hold the document's lock around `update`.
    """

    root: Any

    @property
    def source(self) -> ColumnDataSource:
        """What is drawn of the ranks."""
        ...

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in *new* rows of the tables steps (n,), validation (m,) and traffic (k,), in any order of the ranks."""
        ...

    def select(self, ranks: list[int]) -> None:
        """Show these ranks where not all of them are shown."""
        ...


def legend_above(root: Any, items: list[LegendItem]) -> None:
    """Put a legend above a figure, where it covers nothing, or change the one that is there."""
    if root.above:
        root.above[0].items = items
        return
    look: dict[str, Any] = {"orientation": "horizontal", "border_line_alpha": 0, "background_fill_alpha": 0, "padding": 0, "spacing": 8}
    root.add_layout(Legend(items=items, label_text_font_size="11px", **look), "above")


def canvas(name: str, title: str, across: str, along: str, **more: Any) -> Any:
    """An empty figure with the bench's manners: as wide as there is room, no wheel that swallows the page's scrolling."""
    root: Any = figure(
        name=name,
        title=title,
        x_axis_label=across,
        y_axis_label=along,
        height=280,
        min_width=320,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag=None,
        active_scroll=None,
        toolbar_location="right",
        **more,
    )
    root.toolbar.logo = None
    root.title.text_font_size = "13px"
    return root
