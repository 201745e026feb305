"""What `workbench bench NAME` measures. One file each; `BENCHMARKS` is the only list of them.

Compared things take turns in one run, figures are medians, and what is promised is a ratio: machines differ, and the
speed of one drifts.
"""

from __future__ import annotations

BENCHMARKS: dict[str, str] = {
    "step": "workbench.benchmarks.step",
    "ddp": "workbench.benchmarks.ddp",
    "start": "workbench.benchmarks.start",
    "telemetry": "workbench.benchmarks.telemetry",
    "command": "workbench.benchmarks.command",
    "view": "workbench.benchmarks.view",
    "factors": "workbench.benchmarks.factors",
    "exchange": "workbench.benchmarks.exchange",
    "overlap": "workbench.benchmarks.overlap",
    "tcp": "workbench.benchmarks.tcp",
    "stragglers": "workbench.benchmarks.stragglers",
    "servers": "workbench.benchmarks.servers",
    "gossip": "workbench.benchmarks.gossip",
    "drift": "workbench.benchmarks.drift",
    "curves": "workbench.benchmarks.curves",
}
"""Name -> module with `measure(quick: bool) -> list[Figure]`."""
