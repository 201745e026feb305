"""Several runs on one HTML page: the table that compares them, then the plots of each."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.compare import compare, table_words
from workbench.runs.figures import definition
from workbench.runs.page import page, placed, plots_of, write_page

if TYPE_CHECKING:
    from workbench.runs.run import Run


def write_side_by_side(runs: Sequence[Run], path: Path) -> Path:
    """Write the page, whole or not at all; the path. OSError."""
    return write_page(path, render_side_by_side(runs))


def render_side_by_side(runs: Sequence[Run]) -> str:
    """The HTML of the page; every value from the runs is escaped."""
    frame = compare(runs)
    head, *rows = table_words(frame)
    names = ["", *frame.columns]
    heading = "".join(f'<th title="{html.escape(definition(name))}">{html.escape(words)}</th>' for name, words in zip(names, head, strict=True))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    parts = [f'<div class="wide"><table><tr>{heading}</tr>{body}</table></div>']
    plots: dict[str, Any] = {}
    for number, run in enumerate(runs):
        parts.append(f"<h2>{html.escape(str(frame['strategy'].iloc[number]))}</h2>")
        own = {f"{number}-{name}": plot for name, plot in plots_of(run).items()} if len(run.table("steps")) else {}
        plots |= own
        parts += [*map(placed, own), f"<p>records: {html.escape(str(run.folder))}</p>"]
    return page(f"{len(runs)} runs side by side", parts, plots)
