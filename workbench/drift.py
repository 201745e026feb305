"""How far apart the workers' parameters are, told from the sketches that each of them has recorded.

A sketch is linear: the sketch of a difference is the difference of the sketches, and that of a point between two others lies as far
between theirs. Its length is that of the vector within a relative standard error of sqrt(2 / SKETCH) / 2 (Alon, Matias and Szegedy, 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from workbench.telemetry import PHASES, SKETCH

Array = npt.NDArray[Any]

DRIFT_ERROR: Final = float(np.sqrt(2 / SKETCH) / 2)
"""Relative standard error of a distance told from sketches: half of that of its square, sqrt(2 / SKETCH)."""


class Track(NamedTuple):
    """The way of one rank: the steps after which it was sketched (n,), when that was (n,), and the sketches (n, SKETCH).

    `done` are all its steps (m,), and `ends` when they ended (m,): in between its parameters stand still.
    """

    rank: int
    steps: Array
    seconds: Array
    sketches: Array
    done: Array
    ends: Array

    def reached(self, times: Array) -> Array:
        """The last step that was done at each time (t,)."""
        place: Array = self.done[np.maximum(np.searchsorted(self.ends, times, "right") - 1, 0)]
        return place


def tracks_of(steps: Array) -> list[Track]:
    """The way of each rank in these rows of the table steps, by rank."""
    steps = steps[np.lexsort((steps["step"], steps["rank"]))]
    ends = steps["start_seconds"] + np.sum([steps[f"{phase}_seconds"] for phase in PHASES], axis=0, dtype=np.float64)
    ranks, begins, counts = np.unique(steps["rank"], return_index=True, return_counts=True)
    tracks = []
    for rank, begin, end in zip(ranks.tolist(), begins.tolist(), (begins + counts).tolist(), strict=True):
        own, ended = steps[begin:end], np.maximum.accumulate(ends[begin:end])
        taken = np.flatnonzero(~np.isnan(own["sketch"][:, 0]))
        tracks.append(Track(rank, own["step"][taken], ended[taken], own["sketch"][taken].astype(np.float64), own["step"].copy(), ended))
    return tracks


def at_steps(tracks: Sequence[Track], numbers: Array) -> tuple[Array, Array]:
    """Where all were after the same steps (t,), which every track has: seconds (t, ranks) and drift (t, ranks)."""
    places = [np.searchsorted(track.steps, numbers) for track in tracks]
    seconds = np.stack([track.seconds[place] for track, place in zip(tracks, places, strict=True)], 1)
    return seconds, _apart(lambda rank: tracks[rank].sketches[places[rank]], len(tracks))


def shared_steps(tracks: Sequence[Track]) -> Array:
    """The steps after which every one of them was sketched, ascending."""
    if not tracks:
        return np.empty(0, np.int64)
    numbers, counts = np.unique(np.concatenate([np.unique(track.steps) for track in tracks]), return_counts=True)
    shared: Array = numbers[counts == len(tracks)]
    return shared


def at_times(tracks: Sequence[Track], times: Array) -> tuple[Array, Array]:
    """Where all were at the same times (t,), which lie within every track: drift (t, ranks) and its standard error (t, ranks).

    Between two sketches a rank is taken to move on a straight line, by the same way in each step. How far from it a random walk would be
    is told from how far every sketch is from the line between its neighbours, and is part of the error.
    """
    drift = _apart(lambda rank: _between(tracks[rank], times), len(tracks))
    bends = np.stack([_bend(track, times) for track in tracks], 1)
    count = len(tracks)
    # x_i - mean = (1 - 1/P) x_i - sum of the others / P
    lines = max(0.0, 1 - 2 / count) * bends**2 + (bends**2).sum(1, keepdims=True) / count**2
    return drift, np.sqrt((DRIFT_ERROR * drift) ** 2 + lines)


def _apart(sketches: Callable[[int], Array], ranks: int) -> Array:
    """Distance of each from the mean of all, (t, ranks); `sketches` gives those of a rank, (t, SKETCH), and of one rank at a time."""
    mean = sum(map(sketches, range(1, ranks)), sketches(0)) / ranks
    return np.stack([np.linalg.norm(sketches(rank) - mean, axis=1) for rank in range(ranks)], 1)


def _place(track: Track, times: Array) -> tuple[Array, Array, Array]:
    """For each time the sketches before and behind it, and how far between them the rank was, from 0 to 1."""
    before = np.clip(np.searchsorted(track.seconds, times, "right") - 1, 0, max(0, len(track.steps) - 2))
    behind = np.minimum(before + 1, len(track.steps) - 1)
    length = track.steps[behind] - track.steps[before]
    share = np.divide(track.reached(times) - track.steps[before], length, out=np.zeros(len(times)), where=length > 0)
    return before, behind, share.clip(0, 1)


def _between(track: Track, times: Array) -> Array:
    """The sketch at each time, (t, SKETCH)."""
    before, behind, share = _place(track, times)
    there: Array = track.sketches[before] + share[:, None] * (track.sketches[behind] - track.sketches[before])
    return there


def _bend(track: Track, times: Array) -> Array:
    """How far the rank may be from the straight line at each time, (t,): the standard error of a Brownian bridge."""
    count, sketches = len(track.steps), track.sketches
    off = np.zeros(count)
    if count > 2:
        share = ((track.steps[1:-1] - track.steps[:-2]) / (track.steps[2:] - track.steps[:-2]))[:, None]
        off[1:-1] = np.linalg.norm(sketches[1:-1] - (1 - share) * sketches[:-2] - share * sketches[2:], axis=1)
    elif count == 2:
        off[:] = np.linalg.norm(sketches[1] - sketches[0]) / 2
    before, behind, share = _place(track, times)
    # of a walk with variance v per step: 2n v / 4 in the middle of a stretch of 2n (seen), share (1 - share) n v within one of n (sought)
    scattered: Array = np.sqrt(2 * share * (1 - share)) * np.maximum(off[before], off[behind])
    return scattered
