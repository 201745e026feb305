"""What a slow worker costs the fast ones, strategy by strategy: on virtual ranks, and on real ones whose step is a wait.

A step of 20 ms is waited for, not computed, so that a straggler gives its core away as one on a machine of its own would. Lost is the mean
time of a step of the fast workers over that without a straggler, less 1. Counted are their steps after the first ten (a bound on
staleness lets the first ones go) for as long as the straggler trains; workers that wait for nobody are done long before it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from workbench.benchmarks.figures import Figure, turns
from workbench.runs.figures import times
from workbench.store import Rows

if TYPE_CHECKING:
    from workbench.cluster.mpi import Cluster
    from workbench.cluster.virtual import VirtualCluster
    from workbench.job import Job
    from workbench.strategies import Strategy

WORKERS: Final = 4
STRAGGLER: Final = 3
FACTOR: Final = 4.0
STEP_SECONDS: Final = 0.02
FIRST: Final = 10
"""Steps of each worker that do not count."""
LIMIT: Final = 5.0
WAITING: Final = ("elastic", "gossip")
"""Strategies with a target: nobody in them should wait for a straggler."""


def measure(quick: bool = False) -> list[Figure]:
    """Percent of a step that fast workers lose, of all strategies here and there."""
    steps, rounds = (30, 1) if quick else (110, 3)
    return [*virtual(steps), *real(steps, rounds)]


def virtual(steps: int) -> list[Figure]:
    """On virtual ranks behind 1 GbE, where one run of each is enough: it repeats exactly."""
    from workbench.cluster.virtual import VirtualCluster
    from workbench.comm.network import Device

    device, figures = Device(seconds_per_sample=STEP_SECONDS, seconds_per_update=0.0), []
    for name, strategy in strategies().items():
        with VirtualCluster(ranks_of(strategy), device=device, folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
            even, uneven = (rows_of(cluster, job_of(strategy, steps, slow)) for slow in (False, True))
        figures.append(figure("virtual", name, [step_seconds(even)], [step_seconds(uneven)]))
    return figures


def real(steps: int, rounds: int) -> list[Figure]:
    """On real ranks of this machine; runs with and without a straggler take turns."""
    from workbench.cluster.mpi import Cluster

    figures = {}
    for ranks in (WORKERS, WORKERS + 1):
        with Cluster(ranks, name=f"bench-stragglers-{os.getpid()}", folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
            for name, strategy in strategies().items():
                if ranks_of(strategy) == ranks:
                    figures[name] = figure("real", name, *turns(rounds, *(timing(cluster, strategy, steps, slow) for slow in (False, True))))
    return [figures[name] for name in strategies()]


def strategies() -> dict[str, Strategy]:
    """Who is compared."""
    from workbench.strategies import Elastic, Gossip, ParameterServer, Synchronous

    stale = ParameterServer(mode="stale", staleness=3)
    return {"synchronous": Synchronous(), "stale, s=3": stale, "async": ParameterServer(), "elastic": Elastic(), "gossip": Gossip()}


def ranks_of(strategy: Strategy) -> int:
    """So many that four of them are workers."""
    return next(size for size in range(WORKERS, 2 * WORKERS) if strategy.roles(size).count("worker") == WORKERS)


def job_of(strategy: Strategy, steps: int, slow: bool, loss: str = "cross-entropy") -> Job:
    """A small model."""
    from workbench.job import Job

    faults = {STRAGGLER: FACTOR} if slow else {}
    return Job(model="mlp", data="digits", batch_size=1, learning_rate=0.01, steps=steps, loss=loss, strategy=strategy, slow=faults)


def waited_for(model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Cross-entropy that takes 20 ms while training, in which its core is free."""
    from torch.nn import functional

    if model.training:
        time.sleep(STEP_SECONDS)
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets), {}


def timing(cluster: Cluster, strategy: Strategy, steps: int, slow: bool) -> Callable[[], float]:
    """A run of its own each time, whose steps are waits."""
    return lambda: step_seconds(rows_of(cluster, job_of(strategy, steps, slow, f"{__name__}:waited_for")))


def rows_of(cluster: Cluster | VirtualCluster, job: Job) -> Rows:
    """The rows of all steps of a run."""
    from workbench.store import read_table

    return read_table(cluster.train(job).wait().folder, "steps")


def step_seconds(steps: Rows) -> float:
    """Mean time of a step of the fast workers while the straggler trains too, without each one's first."""
    took = times(steps)
    ends = steps["start_seconds"] + took
    over = ends[steps["rank"] == STRAGGLER].max()
    return float(np.mean(took[(steps["rank"] != STRAGGLER) & (steps["step"] >= FIRST) & (ends <= over)]))


def figure(where: str, name: str, even: list[float], uneven: list[float]) -> Figure:
    """Lost, in percent: of medians over the rounds."""
    without, beside = median(even), median(uneven)
    what = f"{where} ranks, {name}: time that fast workers lose to one that is slow"
    lost, detail = 100 * (beside / without - 1), f"a step takes {1e3 * beside:.1f} ms instead of {1e3 * without:.1f}"
    return Figure.at_most(what, lost, LIMIT, "%", detail) if name in WAITING else Figure(what, lost, "%", detail=detail)
