"""Records as pandas has them, and what follows from the records of several ranks together: waiting and drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from workbench.store import Rows
from workbench.telemetry import SKETCH

DRIFT_ERROR: Final = float(np.sqrt(2 / SKETCH) / 2)
"""Relative standard error of a distance told from sketches: half of that of its square, sqrt(2 / SKETCH)."""


def table_frame(rows: Rows, order: list[str]) -> pd.DataFrame:
    """One row per record, sorted by `order`; a column per column of the table, without the sketches."""
    names = [name for name in rows.dtype.names or () if rows.dtype[name].subdtype is None]
    frame = pd.DataFrame({name: rows[name] for name in names})
    return frame.sort_values(order, kind="stable", ignore_index=True)


def steps_frame(rows: Rows) -> pd.DataFrame:
    """One row per worker and step, in the order of the steps; the columns are those of workbench.telemetry.STEPS."""
    return table_frame(rows, ["step", "rank"])


def validation_frame(rows: Rows) -> pd.DataFrame:
    """One row per validation, in the order of time; rank -1 is the answer of all ranks, accuracy a share from 0 to 1."""
    return table_frame(rows, ["seconds"])


def events_frame(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per event in the order of time; what only some kinds of event have is None elsewhere."""
    frame = pd.DataFrame(list(events), dtype=object)
    for name in ("kind", "rank", "step", "seconds"):
        if name not in frame:
            frame[name] = pd.Series(dtype=object)
    first = ["seconds", "kind", "rank", "step"]
    rest = [name for name in frame.columns if name not in (*first, "source", "number")]
    frame = frame[[*first, *rest]]
    frame["seconds"] = frame["seconds"].astype(float)
    return frame.astype(object).where(frame.notna(), None).sort_values("seconds", kind="stable", ignore_index=True)


def waiting_frame(spans: Rows, kind: str = "exchange") -> pd.DataFrame:
    """How much of each exchange a rank waited for the last one to come, and how much was moving bytes.

    One row per rank and exchange that was recorded on every rank: `rank step exchange seconds waiting_seconds
    moving_seconds`. An exchange of two (`peer` >= 0) begins when both are there, one of all when all are; until then
    a rank waits. A step that exchanges in several stretches has several rows.
    """
    columns = ["rank", "step", "exchange", "stretch", "seconds", "waiting_seconds", "moving_seconds"]
    spans = spans[spans["kind"] == kind]
    if not len(spans):
        return pd.DataFrame({name: pd.Series(dtype=float) for name in columns})
    frame = pd.DataFrame({name: spans[name] for name in ("rank", "step", "exchange", "peer", "start_seconds", "end_seconds")})
    frame = frame.sort_values(["rank", "start_seconds"], kind="stable", ignore_index=True)
    frame["stretch"] = frame.groupby(["rank", "exchange"]).cumcount()
    ranks = frame["rank"].nunique()
    same = frame.groupby(["exchange", "stretch"])
    frame = frame[same["rank"].transform("nunique") == ranks].copy()
    all_there = frame.groupby(["exchange", "stretch"])["start_seconds"].transform("max")
    starts = frame.set_index(["exchange", "stretch", "rank"])["start_seconds"]
    keys = pd.MultiIndex.from_frame(frame[["exchange", "stretch", "peer"]])
    peer_there = starts[~starts.index.duplicated()].reindex(keys).to_numpy()
    both_there = np.fmax(peer_there, frame["start_seconds"].to_numpy())
    met = np.where(frame["peer"] < 0, all_there, both_there)
    frame["seconds"] = frame["end_seconds"] - frame["start_seconds"]
    frame["waiting_seconds"] = np.clip(met - frame["start_seconds"], 0, frame["seconds"])
    frame["moving_seconds"] = frame["seconds"] - frame["waiting_seconds"]
    return frame[columns].sort_values(["exchange", "stretch", "rank"], ignore_index=True)


def drift_frame(steps: Rows) -> pd.DataFrame:
    """How far each rank's parameters are from the mean of the workers, told from the sketches of all of them.

    One row per rank and step at which every worker's parameters were sketched: `step rank drift error`. Drift is a
    Euclidean distance, `error` its standard error: the sketch is linear, so the sketch of a difference is the
    difference of the sketches, and the length of a sketch is that of the vector within sqrt(2 / SKETCH) / 2
    (Alon, Matias and Szegedy, 1996).
    """
    taken = steps[~np.isnan(steps["sketch"]).any(axis=1)]
    workers = len(np.unique(steps["rank"]))
    parts = []
    order = np.lexsort((taken["rank"], taken["step"]))
    taken = taken[order]
    numbers, begins, counts = np.unique(taken["step"], return_index=True, return_counts=True)
    for step, begin, count in zip(numbers.tolist(), begins.tolist(), counts.tolist(), strict=True):
        if count != workers:
            continue
        sketch = taken["sketch"][begin : begin + count].astype(np.float64)
        drift = np.sqrt(((sketch - sketch.mean(axis=0)) ** 2).sum(axis=1))
        parts.append(pd.DataFrame({"step": step, "rank": taken["rank"][begin : begin + count], "drift": drift}))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: pd.Series(dtype=float) for name in ("step", "rank", "drift")})
    frame["error"] = frame["drift"] * DRIFT_ERROR
    return frame
