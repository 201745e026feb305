"""How long a person waits: for a cluster's first training step, and for a cluster that is up already."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from workbench.benchmarks.figures import Figure
from workbench.cluster.mpi import Cluster
from workbench.job import Job

RANKS = 4

ATTACH = """
import sys, time
start = time.perf_counter()
from workbench import Cluster
cluster = Cluster(ranks=int(sys.argv[2]), name=sys.argv[1]).start()
print(time.perf_counter() - start)
cluster.detach()
"""


def measure(quick: bool = False) -> list[Figure]:
    """A cluster of 4 ranks from nothing to its first recorded step (torch imported), and reattaching from a second process."""
    to_step, attach, stop = [], [], []
    for turn in range(2 if quick else 5):
        name = f"bench-start-{os.getpid()}-{turn}"
        start = time.perf_counter()
        cluster = Cluster(RANKS, name=name, folder=tempfile.mkdtemp(prefix="bench-"))
        try:
            cluster.start()
            run = cluster.train(Job(steps=1))
            while not len(run.rows("steps")):
                time.sleep(0.005)
            to_step.append(time.perf_counter() - start)
            run.wait()
            for _ in range(1 if quick else 3):
                told = subprocess.run([sys.executable, "-c", ATTACH, name, str(RANKS)], capture_output=True, text=True, check=True)
                attach.append(float(told.stdout.split()[-1]))
        finally:
            start = time.perf_counter()
            cluster.stop()
            stop.append(time.perf_counter() - start)
    return [
        Figure.at_most(f"start of {RANKS} ranks to the first training step", median(to_step), 10, "s", _spread(to_step)),
        Figure.at_most("attaching from a second process, imports included", median(attach), 1, "s", _spread(attach)),
        Figure("stop", median(stop), "s", detail=_spread(stop)),
    ]


def _spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s in {len(seconds)} tries"
