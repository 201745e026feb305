"""Runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pandas as pd

from workbench.runs.figures import shown
from workbench.runs.run import Run

COMPARED: Final = (
    "strategy",
    "ranks",
    "steps",
    "accuracy",
    "loss",
    "wall_seconds",
    "samples_per_second",
    "exchange_share",
    "hidden_share",
    "bytes_per_step",
    "status",
)
"""The figures that are compared; their units and definitions are in workbench.runs.figures.FIGURES."""


def compare(runs: Iterable[Run | str | Path]) -> pd.DataFrame:
    """One row per run (or folder of one) in the order given, a column per figure of `COMPARED`; the index is the folder's name.

    ValueError for a folder that is not a run's.
    """
    rows, names = [], []
    for given in runs:
        run = given if isinstance(given, Run) else Run.open(given)
        figures = run.summary()
        if run is not given:
            run.close()
        rows.append({name: figures[name] for name in COMPARED})
        names.append(run.folder.name)
    return pd.DataFrame(rows, index=pd.Index(names, name="run"), columns=list(COMPARED))


def table_words(frame: pd.DataFrame) -> list[list[str]]:
    """A compared table as text, heading first: numbers with their units, for a terminal or a page."""
    heading = ["run", *(str(name).replace("_", " ") for name in frame.columns)]
    rows = zip(frame.index, frame.itertuples(index=False), strict=True)
    return [heading, *([str(name), *(shown(str(column), value) for column, value in zip(frame.columns, row, strict=True))] for name, row in rows)]
