"""Bokeh figures as plain models, one per file: `source`, `root`, `update(rows)`. Used by reports and by the bench.

Everything drawn is computed from records; a long run is thinned by means over equal stretches, never cut. Memory is
bounded by the number of ranks, and an update sends only what has changed.
"""

from collections.abc import Callable
from typing import Final

from workbench.plots.base import Plot
from workbench.plots.drift import DriftPlot
from workbench.plots.loss import LossPlot
from workbench.plots.phases import RECENT, PhasesPlot
from workbench.plots.staleness import StalenessPlot
from workbench.plots.throughput import ThroughputPlot
from workbench.plots.traffic import TrafficPlot

PLOTS: Final[dict[str, Callable[..., Plot]]] = {
    "loss": LossPlot,
    "throughput": ThroughputPlot,
    "phases": PhasesPlot,
    "staleness": StalenessPlot,
    "drift": DriftPlot,
    "traffic": TrafficPlot,
}
"""Name -> plot, in the order in which they are shown. A plot may be told the number of ranks, and learns it otherwise; its
figure has its name."""


def plots_of(ranks: int = 1, lockstep: bool = True, recent: int | None = RECENT) -> dict[str, Plot]:
    """One of each, for a run of so many workers, which share their steps or not; phases over the `recent` steps, or over all (None)."""
    more: dict[str, dict[str, int | bool | None]] = {"phases": {"recent": recent}, "drift": {"lockstep": lockstep}}
    return {name: plot(ranks, **more.get(name, {})) for name, plot in PLOTS.items()}


__all__ = ["PLOTS", "DriftPlot", "LossPlot", "PhasesPlot", "Plot", "StalenessPlot", "ThroughputPlot", "TrafficPlot", "plots_of"]
