"""Runs side by side on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from workbench.cli.screen import table

if TYPE_CHECKING:
    from workbench.runs.run import Run

WORDS = ("run", "strategy", "status")
"""The columns that are no numbers."""


def run_folder(path: Path) -> Path:
    """`path` if it is the folder of a run, or a ValueError that says where runs are instead."""
    if path.is_dir() and not (path / "job.json").is_file():
        inside = sorted(child.name for child in path.iterdir() if (child / "job.json").is_file())
        if inside:
            raise ValueError(f"{path} is not the folder of a run, but runs are in it: {path / inside[-1]}")
        raise ValueError(f"{path} is not the folder of a run: it has no job.json")
    if not path.is_dir():
        raise ValueError(f"{path} is not the folder of a run: there is no such folder")
    return path


def open_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs of some folders."""
    from workbench.runs.run import Run

    return [Run.open(folder) for folder in map(run_folder, folders)]


def comparison(runs: Sequence[Run], columns: Sequence[str] = ()) -> Table:
    """One line a run: its folder and all figures that are compared, or only those named."""
    from workbench.runs.compare import compare, table_words

    frame = compare(runs)
    head, *rows = table_words(frame[list(columns)] if columns else frame)
    if columns:
        head, rows = head[1:], [row[1:] for row in rows]
    return table(head, [[escape(cell) for cell in row] for row in rows], numbers=[name for name in head if name not in WORDS])
