"""Records as pandas has them, and what follows from the records of several ranks together: waiting, drift and who talked to whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from workbench.drift import DRIFT_ERROR, at_steps, at_times, shared_steps, tracks_of
from workbench.store import Rows

MOMENTS: Final = 2000
"""Moments of a run at which drift is told, at most."""


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


def drift_frame(steps: Rows, lockstep: bool = True) -> pd.DataFrame:
    """How far each worker's parameters are from the mean of the workers: `step rank seconds drift error`, told from the sketches of all.

    Drift is a Euclidean distance, `error` its standard error. Workers in lockstep are compared after the same step. Others share no step:
    they are compared at the same time, which is whenever one of them was sketched, from when all have been until one is no more, and
    between two sketches a worker is taken to move on a straight line. `step` is then the last that it had done. Of more than `MOMENTS`
    moments every so manieth is told. See `workbench.drift`.
    """
    tracks = tracks_of(steps)
    if not tracks or not all(len(track.seconds) for track in tracks):
        return pd.DataFrame({name: pd.Series(dtype=float) for name in ("step", "rank", "seconds", "drift", "error")})
    if lockstep:
        numbers = _thinned(shared_steps(tracks))
        seconds, drift = at_steps(tracks, numbers)
        error, reached = DRIFT_ERROR * drift, np.repeat(numbers[:, None], len(tracks), 1)
    else:
        times = np.unique(np.concatenate([track.seconds for track in tracks]))
        first, last = max(track.seconds[0] for track in tracks), min(track.seconds[-1] for track in tracks)
        times = _thinned(times[(times >= first) & (times <= last)])
        drift, error = at_times(tracks, times)
        seconds = np.repeat(times[:, None], len(tracks), 1)
        reached = np.stack([track.reached(times) for track in tracks], 1)
    columns = {
        "step": reached,
        "rank": np.tile([track.rank for track in tracks], (len(drift), 1)),
        "seconds": seconds,
        "drift": drift,
        "error": error,
    }
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()})


def traffic_frame(rows: Rows) -> pd.DataFrame:
    """What went from each rank to each other one in the whole run: `rank peer bytes messages`, one row per pair that had something to say."""
    rows = rows[rows["rank"] != rows["peer"]]  # a message to oneself only wakes a receive
    frame = pd.DataFrame({name: rows[name] for name in ("rank", "peer", "bytes", "messages")})
    return frame.groupby(["rank", "peer"], as_index=False)[["bytes", "messages"]].sum()


def server_frame(rows: Rows) -> pd.DataFrame:
    """One row per update of a worker's that a server has applied, in the order of time; the columns are those of workbench.telemetry.SERVER."""
    return table_frame(rows, ["seconds", "rank", "update"])


def _thinned(moments: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """At most `MOMENTS` of them, evenly, the first and the last included."""
    if len(moments) <= MOMENTS:
        return moments
    return moments[np.linspace(0, len(moments) - 1, MOMENTS).round().astype(np.intp)]
