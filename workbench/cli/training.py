"""`workbench train`: one job on a cluster that is started for it and stopped after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.following import follow, interrupts
from workbench.cli.screen import errors, output
from workbench.cluster.naming import label_of
from workbench.errors import Aborted
from workbench.job import Job

if TYPE_CHECKING:
    from workbench.runs.run import Run


def train(path: Path, ranks: int, out: Path, network: str | None, devices: str | None) -> None:
    """Train the job of a file on real ranks, over an emulated link if a network is given; without devices on simulated ranks.

    Aborted if Ctrl-C was pressed twice.
    """
    job = Job.load(path)
    job.check(ranks)
    cluster: Any
    if devices is None:
        from workbench.cluster.virtual import VirtualCluster

        cluster = VirtualCluster(ranks, network=network or "1G", folder=out)
    else:
        from workbench.cluster.mpi import Cluster

        # a name of its own: it must not attach to a cluster that somebody works with
        cluster = Cluster(ranks, name=f"train-{os.getpid()}", devices=devices, network=network, folder=out)
    with started(cluster):
        run, pressed = watch(cluster, job)
    output.print(str(run.summary()), markup=False, soft_wrap=True)
    if pressed > 1:
        raise Aborted("ended at once by Ctrl-C; what was recorded until then is kept")


@contextmanager
def started(cluster: Any) -> Iterator[Any]:
    """A cluster that is up, and stopped at the end whatever happens; Ctrl-C does not interrupt the stopping."""
    with errors.status(f"starting {cluster.ranks} ranks"):
        cluster.__enter__()  # as its owner: killed or not, this command leaves no cluster behind
    try:
        yield cluster
    finally:
        with interrupts():
            cluster.stop()


def watch(cluster: Any, job: Job) -> tuple[Run, int]:
    """Train a job and draw it; the run, and how often Ctrl-C was pressed. RankFailed if it fails."""
    run: Run = cluster.train(job)
    pressed = follow(run, label_of(job), output)
    if not pressed:
        run.wait()
    return run, pressed
