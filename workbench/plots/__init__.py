"""Bokeh figures as plain models, one per file: `source`, `root`, `update(rows)`. Used by reports and by the bench.

Everything drawn is computed from records; a long run is thinned by means over equal stretches, never cut. Memory is
bounded by the number of ranks, and an update sends only what has changed.
"""

from workbench.plots.base import Plot
from workbench.plots.loss import LossPlot
from workbench.plots.phases import PhasesPlot
from workbench.plots.throughput import ThroughputPlot

PLOTS = {"loss": LossPlot, "throughput": ThroughputPlot, "phases": PhasesPlot}
"""Name -> plot, in the order in which they are shown. A plot is made with the number of ranks; its figure has its name."""

__all__ = ["PLOTS", "LossPlot", "PhasesPlot", "Plot", "ThroughputPlot"]
