"""Several runs on one HTML page that needs nothing else: the table that compares them, then the plots of each."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bokeh.embed import components
from bokeh.resources import Resources

from workbench.plots import PLOTS, PhasesPlot
from workbench.runs.compare import compare, table_words
from workbench.runs.figures import definition

if TYPE_CHECKING:
    from workbench.runs.run import Run

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5em 0; } th, td { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd; }
"""


def write_side_by_side(runs: Sequence[Run], path: Path) -> Path:
    """Write the page, whole or not at all; the path."""
    text = render_side_by_side(runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return path


def render_side_by_side(runs: Sequence[Run]) -> str:
    """The HTML of the page; every value from the runs is escaped."""
    frame = compare(runs)
    head, *rows = table_words(frame)
    names = ["", *frame.columns]
    heading = "".join(f'<th title="{html.escape(definition(name))}">{html.escape(words)}</th>' for name, words in zip(names, head, strict=True))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    title = f"{len(runs)} runs side by side"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>Written {datetime.now():%Y-%m-%d %H:%M:%S} by the workbench.</p>",
        f'<div class="wide"><table><tr>{heading}</tr>{body}</table></div>',
    ]
    figures = {f"{number}-{name}": figure.root for number, run in enumerate(runs) for name, figure in _plots(run).items()}
    script, divisions = components(figures) if figures else ("", {})
    for number, run in enumerate(runs):
        parts.append(f"<h2>{html.escape(str(frame['strategy'].iloc[number]))}</h2>")
        parts += [division for key, division in divisions.items() if key.startswith(f"{number}-")]
        parts.append(f"<p>records: {html.escape(str(run.folder))}</p>")
    resources = Resources(mode="inline", components=["bokeh"]).render_js() if script else ""
    top = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>{resources}'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{top}</head><body>\n' + "\n".join(parts) + f"\n{script}\n</body></html>\n"


def _plots(run: Run) -> dict[str, Any]:
    steps, validation = run.table("steps"), run.table("validation")
    if not len(steps):
        return {}
    plots = {name: PhasesPlot(recent=None) if plot is PhasesPlot else plot() for name, plot in PLOTS.items()}
    for plot in plots.values():
        plot.update(steps, validation)
    return plots
