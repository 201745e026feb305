"""Measured and predicted times of exchanges on one HTML page: seconds over bytes, both axes logarithmic."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import Legend, LegendItem

from workbench.benchmarks.heats import PEERS
from workbench.benchmarks.timings import Timing, Timings
from workbench.collectives import PORTABLE
from workbench.plots.base import canvas
from workbench.plots.colours import GREY, colours_of, dashes_of
from workbench.runs.page import page, placed, write_page

HOVER: Final = [("", "@name"), ("size", "@nbytes{0,0} bytes"), ("measured", "@words"), ("predicted", "@formula"), ("bus bandwidth", "@bus MB/s")]


@final
@dataclass(frozen=True)
class Drawn:
    """A figure as a page takes it."""

    root: Any


def write_plots(found: Timings, path: Path) -> Path:
    """Write the page, which needs nothing else; its path. OSError."""
    plots: dict[str, Drawn] = {}
    parts = [
        "<p>Medians over rounds of the slowest rank. Full lines with dots are measured, thin dashed ones are the formulas of the collectives "
        "with the latency and bandwidth that were measured first (an emulated network: its own); arithmetic is in no formula. "
        "A click on a name in the legend hides its lines.</p>"
    ]
    for calibration in found.calibrations:
        here = [t for t in found.timings if (t.network, t.ranks) == (calibration.network, calibration.ranks)]
        where = f"{calibration.ranks} ranks, {calibration.network}"
        link = f"{1e6 * calibration.latency:.3g} us and {calibration.bandwidth / 1e6:.4g} MB/s a message; {calibration.library}"
        parts.append(f"<h2>{html.escape(where)}</h2><p>{html.escape(link)}</p>")
        for wire in dict.fromkeys(t.wire for t in here):
            name = f"{where}-{wire}"
            plots[name] = Drawn(drawn(f"{wire}: seconds of one exchange", [t for t in here if t.wire == wire]))
            parts.append(placed(name))
    if found.left_out:
        parts.append(f"<h2>Left out</h2><div class='long'><ul>{''.join(f'<li>{html.escape(why)}</li>' for why in found.left_out)}</ul></div>")
    return write_page(path, page("Exchanges, measured and predicted", parts, plots))


def drawn(title: str, timings: Iterable[Timing]) -> Any:
    """One figure: a line per collective, and its formula."""
    root = canvas("exchange", title, "size of the float32 buffer [bytes]", "seconds", x_axis_type="log", y_axis_type="log")
    root.height = 420
    lines: dict[str, dict[int, Timing]] = {}
    for timing in timings:  # of two heats at one size the first counts
        lines.setdefault(timing.collective, {}).setdefault(timing.nbytes, timing)
    looks = dict(zip(PORTABLE, zip(colours_of(len(PORTABLE)), dashes_of(len(PORTABLE)), strict=True), strict=True))  # alike in all figures
    items, dots = [], []
    for name, by_size in lines.items():
        colour, dash = looks.get(name, (GREY, [[2, 2], [6, 2], [1, 3]][PEERS.index(name) if name in PEERS else 0]))
        source = source_of(name, [by_size[nbytes] for nbytes in sorted(by_size)])
        line = root.line("nbytes", "seconds", source=source, color=colour, line_dash=dash, line_width=2)
        dot = root.scatter("nbytes", "seconds", source=source, color=colour, size=6)
        formula = root.line("nbytes", "predicted", source=source, color=colour, line_dash=[3, 5], line_width=1)
        items.append(LegendItem(label=name, renderers=[line, dot, formula]))
        dots.append(dot)
    root.add_layout(Legend(items=items, click_policy="hide", label_text_font_size="11px", border_line_alpha=0), "right")
    root.add_tools(HoverTool(renderers=dots, tooltips=HOVER))
    return root


def source_of(name: str, timings: list[Timing]) -> ColumnDataSource:
    """What one line and its tooltips show."""
    return ColumnDataSource(
        {
            "name": [name] * len(timings),
            "nbytes": [t.nbytes for t in timings],
            "seconds": [t.seconds for t in timings],
            "predicted": [t.predicted if t.predicted else float("nan") for t in timings],
            "words": [f"{1e3 * t.seconds:.4g} ms ({t.rounds} rounds, fastest {1e3 * t.fastest:.4g} ms)" for t in timings],
            "formula": [f"{1e3 * t.predicted:.4g} ms" if t.predicted else "no formula" for t in timings],
            "bus": [f"{t.bus_bandwidth / 1e6:.4g}" for t in timings],
        }
    )
