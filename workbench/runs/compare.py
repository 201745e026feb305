"""Runs side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from workbench.runs.figures import NOT_OF_EVERY_RUN, shown
from workbench.runs.run import Run

COMPARED: Final = (
    "strategy",
    "faults",
    "ranks",
    "servers",
    "steps",
    "updates",
    "accuracy",
    "loss",
    "wall_seconds",
    "samples_per_second",
    "exchange_share",
    "hidden_share",
    "bytes_per_step",
    "status",
)
"""The figures that are compared, faults, servers and updates where there are some; what each is, is said in workbench.runs.figures.FIGURES."""


def compare(runs: Iterable[Run | str | Path]) -> pd.DataFrame:
    """One row per run (or folder of one) in the order given, a column per figure of `COMPARED`; the index is the folder's name.

    Faults, servers and updates are columns where at least one of the runs has some.
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
    told = [name for name in COMPARED if name not in NOT_OF_EVERY_RUN or any(row[name] for row in rows)]
    frame = pd.DataFrame(rows, index=pd.Index(names, name="run"), columns=told)
    return frame.astype({"updates": "Int64"}) if "updates" in told else frame


def table_words(frame: pd.DataFrame) -> list[list[str]]:
    """A compared table as text, heading first: numbers with their units, for a terminal or a page."""
    heading = ["run", *(str(name).replace("_", " ") for name in frame.columns)]
    rows = zip(frame.index, frame.itertuples(index=False), strict=True)
    return [heading, *([str(name), *map(_cell, frame.columns, row)] for name, row in rows)]


def _cell(name: str, value: Any) -> str:
    return "" if value is pd.NA else shown(name, value)  # updates of a run without servers: there are none
