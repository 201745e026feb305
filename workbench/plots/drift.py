"""How far each worker's parameters are from the mean of the workers, over the time of the run."""

from __future__ import annotations

from typing import Final, final

import numpy as np
from bokeh.models import ColumnDataSource

from workbench.drift import DRIFT_ERROR, Array, Track, at_steps, at_times, shared_steps, tracks_of
from workbench.plots.base import NO_TRAFFIC, NO_VALIDATION, canvas, legend_above
from workbench.plots.bins import SLOTS, Bins
from workbench.plots.lines import RankLines
from workbench.store import Rows
from workbench.telemetry import STEPS

AHEAD: Final = 1000
"""Steps of a rank that wait for those of the others, at most: one that has died must not fill the memory."""


@final
class DriftPlot:
    """The distance whenever the first worker was sketched, of means over more and more of these moments when the run gets long.

    Workers in `lockstep` are compared after the same step, others at the same time (see `workbench.drift`); a moment is drawn once all
    workers have got there. Visible once they are apart.
    """

    def __init__(self, ranks: int = 1, lockstep: bool = True) -> None:
        self.root = canvas("drift", "Drift", "seconds since the start of the run", "distance from the mean", visible=False)
        self.root.y_range.start = 0
        self._lockstep = lockstep
        self._waiting: Rows = np.empty(0, STEPS)
        self._moments, self._until = 0, -np.inf
        self._bins, self._times = Bins(ranks, 1.0), Bins(1, 1.0)
        self._lines = RankLines(self.root, ranks, SLOTS, ("seconds", "0,0.00"), ("distance", "0.000 a"))
        self._replace()

    @property
    def source(self) -> ColumnDataSource:
        """What is drawn of the ranks."""
        return self._lines.source

    def update(self, rows: Rows, validation: Rows = NO_VALIDATION, traffic: Rows = NO_TRAFFIC) -> None:
        """Take in new rows of steps (n,)."""
        if not len(rows):
            return
        ranks = int(rows["rank"].max()) + 1
        if ranks > self._lines.ranks:  # what was drawn was the distance from another mean
            self._lines.grow(ranks)
            self._moments, self._bins, self._times = 0, Bins(ranks, 1.0), Bins(1, 1.0)
            self._replace()
        self._waiting = np.concatenate([self._waiting, rows])
        if not np.isnan(rows["sketch"][:, 0]).all():
            tracks = [track for track in tracks_of(self._waiting) if len(track.steps)]
            if len(tracks) == self._lines.ranks > 1:
                self._draw(*self._apart(tracks))
        if len(self._waiting) > AHEAD * self._lines.ranks:
            self._waiting = self._waiting[-AHEAD * self._lines.ranks :]

    def select(self, ranks: list[int]) -> None:
        """Beyond 64 ranks: show the lines of these."""
        self._lines.select(ranks)

    def _apart(self, tracks: list[Track]) -> tuple[Array, Array]:
        """Times (t,) and drift (t, ranks) at the moments that all have reached; what is not needed any more is forgotten."""
        if self._lockstep:
            numbers = shared_steps(tracks)
            if len(numbers):
                self._waiting = self._waiting[self._waiting["step"] > numbers[-1]]
            seconds, drift = at_steps(tracks, numbers)
            return seconds[:, 0], drift
        first, last = max(track.seconds[0] for track in tracks), min(track.seconds[-1] for track in tracks)
        times = tracks[0].seconds
        times = times[(times >= first) & (times <= last) & (times > self._until)]
        drift, _ = at_times(tracks, times)
        if len(times):
            self._until = times[-1]
            # of each worker the newest sample up to there is still a neighbour
            needed = {track.rank: track.steps[np.searchsorted(track.seconds, self._until, "right") - 1] for track in tracks}
            least = np.array([needed[rank] for rank in range(self._lines.ranks)])
            self._waiting = self._waiting[self._waiting["step"] >= least[self._waiting["rank"]]]
        return times, drift

    def _draw(self, times: Array, drift: Array) -> None:
        if not len(times):
            return
        moment = self._moments + np.arange(len(times))
        self._moments += len(times)
        joined = [bins.fit(float(moment[-1])) for bins in (self._bins, self._times)]
        slot, ranks = (moment // self._bins.width).astype(np.intp), drift.shape[1]
        self._times.add(np.zeros(len(slot), np.intp), slot, times)
        self._bins.add(np.tile(np.arange(ranks), len(slot)), np.repeat(slot, ranks), drift.ravel())
        shown, self.root.visible = self.root.visible, self.root.visible or bool(drift.any())
        if any(joined) or self.root.visible != shown:
            self._replace()
        elif shown:  # what nobody sees is not sent
            low, high = np.full(ranks, slot[0]), np.full(ranks, slot[-1] + 1)
            self._lines.patch(self._bins.means(), low, high, self._times.means()[0])

    def _replace(self) -> None:
        legend_above(self.root, self._lines.legend)
        more = "" if self._lockstep else " or more"  # what may lie between two sketches comes to it
        said = [f"standard error {100 * DRIFT_ERROR:.0f} %{more}"] + ([self._lines.colours] if self._lines.colours else [])
        self.root.title.text = f"Drift from the mean ({', '.join(said)})"
        self._lines.replace(self._times.means()[0], self._bins.means())
