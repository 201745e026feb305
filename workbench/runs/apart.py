"""The figures of ranks that do not wait for each other: what they send, updates of the centre, how stale, how far apart, what happened how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from workbench.runs.frame import drift_frame
from workbench.store import Rows

QUANTILES: Final = {"median": 0.5, "95 %": 0.95, "max": 1.0}
POINTS: Final = 8
"""Points of the curve of the drift."""


def sent_by(steps: Rows, traffic: Rows) -> dict[int, int]:
    """Worker -> bytes that it has sent: in its steps, and after them, which only `traffic` tells, from time to time and at the end."""
    others = traffic[traffic["peer"] != traffic["rank"]]
    return {
        rank: max(int(rows[name][rows["rank"] == rank].sum(dtype=np.int64)) for rows, name in ((steps, "bytes_sent"), (others, "bytes")))
        for rank in np.unique(steps["rank"]).tolist()
    }


def updates_of(server: Rows) -> int | None:
    """Updates of the centre; each server has its part of all of them. None without servers."""
    counts = [len(np.unique(server["update"][server["rank"] == rank])) for rank in np.unique(server["rank"]).tolist()]
    return max(counts, default=None)


def staleness_of(steps: Rows, server: Rows) -> dict[str, float]:
    """Its quantiles; none of a run in which nothing was applied late and that has no servers."""
    ages = server["staleness"] if len(server) else steps["staleness"][steps["staleness"] > 0]
    return {name: float(np.quantile(ages, share)) for name, share in QUANTILES.items()} if len(ages) else {}


def drift_words(steps: Rows, lockstep: bool) -> dict[str, str]:
    """The curve of the drift: "after 40 steps" (where workers share them, else "at 1.5 s") -> mean over the workers, and its error, in words.

    Workers that were never apart have none. The errors of the workers may go the same way, so that of their mean is the mean of theirs.
    """
    frame = drift_frame(steps, lockstep)
    if not frame["drift"].any():
        return {}
    means = frame.groupby("step" if lockstep else "seconds")[["drift", "error"]].mean()
    points = means.iloc[np.unique(np.linspace(0, len(means) - 1, POINTS).round().astype(int))]
    moments = [f"after {step + 1:,} step{'s' * (step > 0)}" if lockstep else f"at {step:.4g} s" for step in points.index]
    return {at: f"{drift:.3g} ± {error:.2g}" for at, (drift, error) in zip(moments, points.to_numpy().tolist(), strict=True)}


def counts_in(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What the ranks have counted until their end, summed over the ranks."""
    total: Counter[str] = Counter()
    for event in events:
        if event["kind"] == "end" and isinstance(event.get("counts"), Mapping):
            total.update({str(what): int(often) for what, often in event["counts"].items()})
    return dict(total)
