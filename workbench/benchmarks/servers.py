"""What a server gets done beside mpi4py by hand, and what it takes of a core while nobody sends."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Final

import psutil

from workbench.benchmarks.figures import Figure, on_ranks

WORKERS: Final = 3


def measure(quick: bool = False) -> list[Figure]:
    """Applied updates per second, and a server's share of a core."""
    return [*on_ranks(WORKERS + 1, "workbench.benchmarks.updates", quick), idle(1.0 if quick else 5.0)]


def idle(seconds: float) -> Figure:
    """The process of the server of a run whose workers are paused: all its threads, what it records and hears included."""
    from workbench.cluster.mpi import Cluster
    from workbench.job import Job
    from workbench.strategies import ParameterServer

    with Cluster(WORKERS + 1, name=f"bench-servers-{os.getpid()}", folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
        run = cluster.train(Job(steps=10**6, strategy=ParameterServer()))
        assert run.feed is not None
        while not run.rows("server").size:
            time.sleep(0.01)
        run.pause()
        while run.status != "paused":
            time.sleep(0.1)
        time.sleep(1.0)  # what was on its way has come
        server, start = psutil.Process(cluster.status().rows[WORKERS].pid), time.perf_counter()
        cpu = sum(server.cpu_times()[:2])
        time.sleep(seconds)
        share = 100 * (sum(server.cpu_times()[:2]) - cpu) / (time.perf_counter() - start)
        run.stop()
        run.wait()
    return Figure.at_most("server: share of a core while its workers are paused", share, 5, "%", f"over {seconds:g} s")
