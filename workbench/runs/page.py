"""An HTML page that needs nothing else: no server, no internet, no other file."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bokeh.embed import components
from bokeh.resources import Resources

from workbench import plots
from workbench.plots import Plot
from workbench.runs.strategy import is_lockstep

if TYPE_CHECKING:
    from workbench.runs.run import Run

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .5em 0; } th, td { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } td.small { color: #555; }
.long { max-height: 30em; overflow: auto; }
pre { background: #f5f5f5; padding: 1em; overflow: auto; } .bad { border-left: 4px solid #d55e00; padding: .2em 1em; background: #fdf1e8; }
.wide { overflow-x: auto; }
"""


def page(title: str, parts: Sequence[str], drawings: Mapping[str, Any]) -> str:
    """The HTML: a heading, then `parts`, which are HTML already; where one is `placed(name)`, the plot of that name is drawn."""
    script, divisions = components({name: plot.root for name, plot in drawings.items()}) if drawings else ("", {})
    drawn = {placed(name): division for name, division in divisions.items()}
    resources = Resources(mode="inline", components=["bokeh"]).render_js() if drawings else ""
    heading = html.escape(title)
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{_STYLE}</style>{resources}'
    body = [f"<h1>{heading}</h1>", f"<p>Written {datetime.now():%Y-%m-%d %H:%M:%S} by the workbench.</p>", *(drawn.get(part, part) for part in parts)]
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + f"\n{script}\n</body></html>\n"


def placed(name: str) -> str:
    """The part of a page at which the plot of that name is drawn."""
    return f"<!-- plot {name} -->"


def plots_of(run: Run) -> dict[str, Plot]:
    """Every plot that has something to show of a run, over all of it."""
    tables = [run.table(name) for name in ("steps", "validation", "traffic")]
    drawn = plots.plots_of(lockstep=is_lockstep(run.job), recent=None)
    for plot in drawn.values():
        plot.update(*tables)
    return {name: plot for name, plot in drawn.items() if plot.root.visible}


def page_path(path: str | Path, name: str) -> Path:
    """`path`, or the file `name` in it where it is a folder."""
    return Path(path) / name if Path(path).is_dir() else Path(path)


def write_page(path: Path, text: str) -> Path:
    """Write a page, whole or not at all; the path. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return path
