"""`workbench demo`: what the workbench is, in one minute, on real parts."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from workbench.channel.launch import cores
from workbench.cli.comparing import comparison
from workbench.cli.screen import output
from workbench.cli.training import started, watch
from workbench.collectives import HalvingDoubling, Ring
from workbench.job import Job
from workbench.strategies import Gossip, Strategy, Synchronous

STRATEGIES_SHOWN: Final[tuple[Strategy, ...]] = (
    Synchronous(collective=Ring()),
    Synchronous(collective=HalvingDoubling(), average="parameters", every=4),
    Gossip(),
)


def demonstrate(ranks: int | None, out: Path) -> None:
    """Train the digits with three strategies in turn on a cluster that is started for it and stopped after it."""
    from workbench.cluster.mpi import Cluster
    from workbench.runs.side_by_side import write_side_by_side

    have = cores()
    wanted = ranks or (4 if have > 1 else 2)
    jobs = [Job(model="resnet20", data="digits", epochs=12, batch_size=32, learning_rate=0.05, strategy=strategy) for strategy in STRATEGIES_SHOWN]
    for job in jobs:
        job.check(wanted)
    cluster = Cluster(wanted, name=f"demo-{os.getpid()}", folder=out)
    shared = f", which share {have} core{'s' if have > 1 else ''}," if have < wanted else ""
    output.print(f"{wanted} MPI ranks{shared} train resnet20 on 1437 handwritten digits, with one strategy after the other")
    runs, pressed = [], 0
    with started(cluster):
        output.print(str(cluster.status()), markup=False)
        for job in jobs:
            run, pressed = watch(cluster, job)
            runs.append(run)
            if pressed:
                break
    output.print()
    output.print(comparison(runs, folders=False))
    report = write_side_by_side(runs, runs[0].folder / "compared.html")
    output.print()
    output.print(f"report with plots:  {report}", soft_wrap=True)
    output.print(f"the notebook:       {notebook_command()}", soft_wrap=True)
    if pressed:
        raise KeyboardInterrupt


def notebook_command() -> str:
    """What opens the first notebook: `make lab` where that works, else the command of this environment."""
    return "make lab" if Path("Makefile").is_file() and Path("workbench").is_dir() else f"{Path(sys.executable).parent / 'workbench'} lab"
