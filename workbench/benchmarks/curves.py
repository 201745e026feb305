"""Loss against seconds, strategy by strategy, with and without a straggler: drawn from the records of runs on virtual ranks.

Virtual ranks make a picture of strategies, not of the machine that draws it: it repeats exactly. Four workers, beside a server where
there is one, take 20 ms for a batch and 0.2 ms for an update, behind 1 GbE.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from workbench.benchmarks.drawing import Axes, Points, svg
from workbench.benchmarks.figures import Figure
from workbench.benchmarks.stragglers import FACTOR, STEP_SECONDS, STRAGGLER, ranks_of, rows_of
from workbench.runs.figures import times
from workbench.store import Rows

if TYPE_CHECKING:
    from workbench.job import Job
    from workbench.strategies import Strategy

BATCH: Final = 32
WINDOW_SECONDS: Final = 0.3
"""A point of a line is the mean loss of all workers' steps that ended so near to it."""
POINTS: Final = 150
REACHED: Final = 0.3
"""The training loss whose time is told."""


def measure(quick: bool = False, out: Path | None = None) -> list[Figure]:
    """Train, draw `stragglers.svg` in the folder `out`, and tell when each strategy has come to a loss of 0.3. OSError."""
    steps = 100 if quick else 250
    without, beside = ({name: curve(rows_in(each, job_of(each, steps, slow))) for name, each in strategies().items()} for slow in (False, True))
    folder = out or Path("artefacts/curves")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stragglers.svg"
    path.write_text(drawn(without, beside, steps * STEP_SECONDS), encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)
    return [figure(name, without[name], beside[name]) for name in strategies()]


def strategies() -> dict[str, Strategy]:
    """Who is drawn."""
    from workbench.strategies import Elastic, Gossip, ParameterServer, Synchronous

    return {"Synchronous()": Synchronous(), "ParameterServer()": ParameterServer(), "Elastic()": Elastic(), "Gossip()": Gossip()}


def job_of(strategy: Strategy, steps: int, slow: bool) -> Job:
    """Digits, with a model of 155 KB."""
    from workbench.job import Job

    faults = {STRAGGLER: FACTOR} if slow else {}
    options = {"hidden": [512]}
    return Job(model="mlp", model_options=options, data="digits", batch_size=BATCH, learning_rate=0.02, steps=steps, strategy=strategy, slow=faults)


def rows_in(strategy: Strategy, job: Job) -> Rows:
    """The rows of all steps of a run on virtual ranks."""
    from workbench.cluster.virtual import VirtualCluster
    from workbench.comm.network import Device

    device = Device(seconds_per_sample=STEP_SECONDS / BATCH, seconds_per_update=2e-4)
    with VirtualCluster(ranks_of(strategy), device=device, folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
        return rows_of(cluster, job)


def curve(steps: Rows) -> Points:
    """Seconds since the start of the run (n,), and the mean training loss about then (n,), of all workers."""
    ends = steps["start_seconds"] + times(steps)
    order = np.argsort(ends, kind="stable")
    ends, sums = ends[order], np.append(0.0, np.cumsum(steps["loss"][order], dtype=np.float64))
    seconds = np.linspace(ends[0], ends[-1], max(2, round(POINTS * float(ends[-1] - ends[0]) / (10 * WINDOW_SECONDS))))
    first, last = (np.searchsorted(ends, seconds + shift) for shift in (-WINDOW_SECONDS / 2, WINDOW_SECONDS / 2))
    counts = last - first
    return seconds[counts > 0], ((sums[last] - sums[first]) / np.maximum(counts, 1))[counts > 0]


def drawn(without: dict[str, Points], beside: dict[str, Points], seconds: float) -> str:
    """The first `seconds`, on which the fast workers have done all their steps if nobody has held them up."""
    axes = Axes("virtual seconds since the start of the run", "training loss, mean of all workers", seconds, 0.005, 3.0)
    return svg(axes, {"four workers alike": without, f"one of them {FACTOR:g} times slower": beside})


def figure(name: str, without: Points, beside: Points) -> Figure:
    """When a strategy has come to the loss beside a straggler."""
    alone, late = reached(without), reached(beside)
    return Figure(f"{name}: to a training loss of {REACHED:g} beside a straggler", late, "s", detail=f"without one {alone:.2f} s")


def reached(points: Points) -> float:
    """Seconds until the loss is there for the first time; NaN if it never is."""
    seconds, losses = points
    there = np.flatnonzero(losses <= REACHED)
    return float(seconds[there[0]]) if there.size else float("nan")
