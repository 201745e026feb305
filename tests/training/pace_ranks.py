"""What each rank of `test_pace` runs: `mpiexec -n 2 python -m tests.training.pace_ranks`."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from tests.mpi.conclusion import conclude
from tests.training.uneven import plain
from workbench.comm.mpi import MpiCommunicator
from workbench.errors import Aborted
from workbench.faults import Slow
from workbench.job import Job
from workbench.strategies import Gossip, Synchronous
from workbench.telemetry import PHASES
from workbench.training.control import Inbox
from workbench.training.journal import Journal
from workbench.training.rank import Place, RankRun

WORLD = MPI.COMM_WORLD
NAP, STEPS, FACTOR, MORE = 5e-3, 12, 4.0, 3e-3


def napping(model: Any, batch: Any) -> tuple[Tensor, dict[str, Any]]:
    """A step takes at least so long."""
    time.sleep(NAP)
    return plain(model, batch)


def slowed(where: Path) -> Iterator[str]:
    """The straggler's own work takes at least `FACTOR` times as long as its naps; its records say so, and leave nothing unexplained."""
    for strategy in (Synchronous(), Synchronous(overlap=True, bucket_bytes=1), Gossip()):
        job = Job(steps=STEPS, batch_size=16, loss="tests.training.pace_ranks:napping", strategy=strategy, faults=(Slow(1, FACTOR, MORE),))
        journal = Journal("rank", where)
        rank = RankRun(job, MpiCommunicator(WORLD.Dup()), journal, Inbox(), where, Place(torch.device("cpu")))
        rank.prepare()
        rank.train(STEPS)
        assert rank.exchange is not None
        rank.exchange.finish()
        batches, events = journal.take()
        rows = next(rows for table, _, rows in batches if table == "steps")
        least = (FACTOR * NAP + MORE) * STEPS if WORLD.rank == 1 else NAP * STEPS
        if (took := rows["compute_seconds"].sum(dtype=float)) < 0.99 * least:
            yield f"the steps of rank {WORLD.rank} took {took} s instead of {least} s with {strategy}"
        explained = np.sum([rows[f"{phase}_seconds"][:-1] for phase in PHASES], dtype=float)
        if explained < 0.98 * (rows["start_seconds"][-1] - rows["start_seconds"][0]):
            yield f"only {explained} s of the steps of rank {WORLD.rank} are explained with {strategy}"
        if [event["message"] for event in events if event["kind"] == "fault"] != ["slowed 4x and by 0.003 s a step"] * WORLD.rank:
            yield f"rank {WORLD.rank} tells {events}"


def aborted(where: Path) -> Iterator[str]:
    """An abort ends a step that has an hour to go, and the wait of the others for it."""
    inbox = Inbox()
    job = Job(steps=2, batch_size=16, faults=(Slow(1, seconds=3600),))
    rank = RankRun(job, MpiCommunicator(WORLD.Dup(), lambda: inbox.aborted), Journal("rank", where), inbox, where, Place(torch.device("cpu")))
    rank.prepare()
    began = time.perf_counter()
    threading.Timer(0.5, inbox.put, (0, "abort")).start()
    try:
        rank.train(2)
        yield f"rank {WORLD.rank} has ended as if nothing had happened"
    except Aborted:
        pass
    if (took := time.perf_counter() - began) > 20:
        yield f"rank {WORLD.rank} took {took:.1f} s to end after the abort"


def main() -> None:
    """Both; the words of all ranks are gathered before anyone fails."""
    torch.set_num_threads(1)
    where = Path(WORLD.bcast(tempfile.mkdtemp(prefix="pace-") if WORLD.rank == 0 else None))
    conclude([*slowed(where), *aborted(where)], f"a straggler is slow on {WORLD.size} ranks")


if __name__ == "__main__":
    main()
