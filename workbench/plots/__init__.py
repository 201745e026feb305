"""Bokeh figures as plain models, one per file: `source`, `root`, `update(rows)`. Used by reports and by the bench.

Everything drawn is computed from records; a long run is thinned by means over equal stretches, never cut. Memory is
bounded by the number of ranks, and an update sends only what has changed.
"""

from collections.abc import Callable
from typing import Final

from workbench.plots.base import Plot
from workbench.plots.loss import LossPlot
from workbench.plots.phases import PhasesPlot
from workbench.plots.throughput import ThroughputPlot

PLOTS: Final[dict[str, Callable[..., Plot]]] = {"loss": LossPlot, "throughput": ThroughputPlot, "phases": PhasesPlot}
"""Name -> plot, in the order in which they are shown. A plot may be told the number of ranks, and learns it otherwise; its
figure has its name."""

__all__ = ["PLOTS", "LossPlot", "PhasesPlot", "Plot", "ThroughputPlot"]
