"""Runs side by side on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table

from workbench.cli.screen import table

if TYPE_CHECKING:
    from workbench.runs.run import Run

COLUMNS: Final = {
    "accuracy": "accuracy",
    "wall_seconds": "time",
    "samples_per_second": "samples/s",
    "exchange_share": "exchanging",
    "bytes_per_step": "sent/step",
}
"""Figure -> heading: what there is room for on a terminal; reports show more."""


def open_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs of some folders."""
    from workbench.runs.run import Run

    return [Run.open(folder) for folder in folders]


def comparison(runs: Sequence[Run], folders: bool = True) -> Table:
    """One line a run, which is told by its strategy and its faults, and with `folders` by its folder, the ranks and how it ended."""
    from workbench.runs.compare import compare, table_words

    frame = compare(runs)
    _, *rows = table_words(frame[list(COLUMNS)])
    cells = []
    for (name, *numbers), (_, told) in zip(rows, frame.iterrows(), strict=True):
        ended = "" if told["status"] == "done" else f", {told['status']}"
        what = ", ".join(filter(None, (told["strategy"], told.get("faults"))))
        words = f"{name}\n{told['ranks']} ranks, {what}{ended}" if folders else f"{what}{ended}"
        # a heading that is a unit says it once for all
        cells.append([escape(words), *(escape(cell.removesuffix(f" {head}")) for cell, head in zip(numbers, COLUMNS.values(), strict=True))])
    return table(("run" if folders else "strategy", *COLUMNS.values()), cells, words=("run", "strategy"))
