"""What each rank of `test_overlap` runs: `mpiexec -n 3 python -m tests.training.overlap_ranks`."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mpi4py import MPI

from tests.mpi.conclusion import conclude
from tests.training.uneven import Breaking, exchanges
from workbench.comm.mpi import MpiCommunicator
from workbench.errors import Aborted, PeerLost
from workbench.job import Job
from workbench.strategies import SufficientFactors, Synchronous
from workbench.training.control import Inbox
from workbench.training.journal import Journal
from workbench.training.rank import Place, RankRun, run_rank

UNEVEN, BREAKING = "tests.training.uneven:uneven", "tests.training.uneven:breaking"
WORLD = MPI.COMM_WORLD


def same_bits(where: Path) -> Iterator[str]:
    """Overlap changes no bit of the gradients' mean: of a model whose gradients come in another order on some ranks, or never."""
    for options in exchanges(WORLD.size):
        ends = []
        for overlap, loss in ((False, "cross-entropy"), (True, "tests.training.uneven:forgetful")):
            job = Job(model=UNEVEN, batch_size=16, steps=4, strategy=Synchronous(overlap=overlap, **options), loss=loss)
            rank = RankRun(job, MpiCommunicator(WORLD.Dup()), Journal("rank", where), Inbox(), where, Place(torch.device("cpu")))
            rank.prepare()
            rank.train(4)
            ends.append(rank.arena.state.clone())
            if overlap and rank.comm.hidden_seconds <= 0:
                yield f"nothing was hidden with {options}"
        if not torch.equal(*ends):
            yield f"overlap changes the model on rank {WORLD.rank} with {options}"


def hidden(where: Path) -> Iterator[str]:
    """Nothing is hidden where an exchange begins after backward; elsewhere never more than load, compute and update took."""
    for strategy in (Synchronous(bucket_bytes=1), SufficientFactors(), SufficientFactors(choice="never"), Synchronous(overlap=True, bucket_bytes=1)):
        job = Job(batch_size=16, steps=6, strategy=strategy)
        journal = Journal("rank", where)
        rank = RankRun(job, MpiCommunicator(WORLD.Dup()), journal, Inbox(), where, Place(torch.device("cpu")))
        rank.prepare()
        rank.train(6)
        rows = next(rows for table, _, rows in journal.take()[0] if table == "steps")
        behind, worked = rows["hidden_seconds"], rows["load_seconds"] + rows["compute_seconds"] + rows["update_seconds"]
        if np.any(behind > worked) or np.any(behind > 0) != strategy.during_backward:
            yield f"{behind.tolist()} s of {worked.tolist()} s were hidden with {strategy}"


def endings(where: Path) -> Iterator[str]:
    """A rank that fails in backward, and an abort, while buckets are under way: all end at once, and their threads too."""
    for what in ("error", "abort"):
        inbox, began = Inbox(), time.perf_counter()
        Breaking.told, Breaking.seconds = what == "error" and WORLD.rank == 1, 0.05
        if what == "abort":
            threading.Timer(0.3, inbox.put, (0, "abort")).start()
        job = Job(model=BREAKING, steps=10**6, batch_size=16, strategy=Synchronous(overlap=True, bucket_bytes=1))
        expected = Aborted if what == "abort" else RuntimeError if Breaking.told else PeerLost
        try:
            run_rank(job, MpiCommunicator(WORLD.Dup(), lambda i=inbox: i.aborted), Journal("rank", where), inbox, where, Place(torch.device("cpu")))
        except expected:
            pass
        except Exception as error:  # noqa: BLE001 (told)
            yield f"rank {WORLD.rank} ended with {type(error).__name__}: {error} instead of {expected.__name__}"
        if time.perf_counter() - began > 20:
            yield f"rank {WORLD.rank} took {time.perf_counter() - began:.1f} s to end after the {what}"
        deadline = time.perf_counter() + 5
        while any(thread.name == "exchange" for thread in threading.enumerate()):
            if time.perf_counter() > deadline:
                yield f"the exchange thread of rank {WORLD.rank} outlives the {what}"
                break
            time.sleep(0.01)


def main() -> None:
    """Every law; the words of all ranks are gathered before anyone fails."""
    torch.set_num_threads(1)
    where = Path(WORLD.bcast(tempfile.mkdtemp(prefix="overlap-") if WORLD.rank == 0 else None))
    found = [*same_bits(where), *hidden(where), *endings(where)]
    conclude(found, f"laws of overlap kept on {WORLD.size} ranks")


if __name__ == "__main__":
    main()
