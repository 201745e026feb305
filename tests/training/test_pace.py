"""A straggler is really slower: its own work takes longer on its clock, others are delayed as their strategy says, and an abort ends its waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mpi.test_laws import mpiexec
from workbench.arena import Arena
from workbench.cluster.charges import Charges, Costs
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.errors import Aborted
from workbench.faults import Slow
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.store import Rows, read_events, read_table, write_json
from workbench.strategies import Exchange, Gossip, Synchronous, Worker
from workbench.telemetry import PHASES
from workbench.training.control import Inbox
from workbench.training.journal import Flusher, Journal
from workbench.training.pace import Pace
from workbench.training.rank import Place, run_rank
from workbench.training.readiness import readiness

COMPUTE, UPDATE = 1e-3, 2e-4
OWN = ("load", "compute", "update")


def steps_of(folder: Path, job: Job, size: int, inbox: Inbox | None = None) -> list[Rows]:
    """The rows of a run on virtual ranks, by rank."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "job.json", job.to_json())
    journal = Journal("world.0", folder)
    flusher = Flusher(journal)

    def body(comm: Communicator) -> dict[str, Any]:
        place = Place(torch.device("cpu"), charge=Charges(comm, Costs(COMPUTE, UPDATE)))
        return run_rank(job, comm, journal, inbox or Inbox(), folder, place)

    try:
        VirtualWorld(size, Network()).run(body)
    finally:
        flusher.close()
    rows = read_table(folder, "steps")
    return [rows[rows["rank"] == rank] for rank in range(size)]


def seconds(rows: Rows, *phases: str) -> Any:
    """Of each step, (n,)."""
    return np.sum([rows[f"{phase}_seconds"].astype(float) for phase in phases], axis=0)


def test_everyone_waits_for_a_straggler_in_lockstep(tmp_path: Path) -> None:
    ranks = steps_of(tmp_path, Job(steps=12, batch_size=16, slow={2: 4}), 4)
    for rank, rows in enumerate(ranks):
        factor = 4 if rank == 2 else 1
        np.testing.assert_allclose(seconds(rows, "compute"), factor * COMPUTE, rtol=1e-5)
        np.testing.assert_allclose(seconds(rows, "update"), factor * UPDATE, rtol=1e-5)
        assert seconds(rows, *PHASES)[1:].min() >= 4 * (COMPUTE + UPDATE) * (1 - 1e-5)
        # the phases leave nothing of a step unexplained
        np.testing.assert_allclose(seconds(rows, *PHASES)[:-1], np.diff(rows["start_seconds"]), rtol=1e-4)
    assert seconds(ranks[0], "exchange")[1:].min() > 3 * (COMPUTE + UPDATE) > seconds(ranks[2], "exchange").max()
    assert [(e["rank"], e["step"], e["message"]) for e in read_events(tmp_path) if e["kind"] == "fault"] == [(2, 0, "slowed 4x")]


def test_nobody_waits_for_a_straggler_in_gossip(tmp_path: Path) -> None:
    job = Job(steps=40, batch_size=16, strategy=Gossip())
    alone = steps_of(tmp_path / "alone", job, 4)
    ranks = steps_of(tmp_path / "slow", job.replace(slow={1: 4}), 4)
    for rank in (0, 2, 3):
        assert ranks[rank]["start_seconds"][-1] <= 1.05 * alone[rank]["start_seconds"][-1]
    np.testing.assert_allclose(seconds(ranks[1], *OWN), 4 * (COMPUTE + UPDATE), rtol=1e-5)
    assert ranks[1]["start_seconds"][-1] > 3.5 * ranks[0]["start_seconds"][-1]


def test_seconds_are_added_to_each_step(tmp_path: Path) -> None:
    job = Job(steps=5, batch_size=16, faults=(Slow(rank=1, seconds=0.02), Slow(rank=0, factor=2, seconds=0.01)))
    ranks = steps_of(tmp_path, job, 3)
    for rows, expected in zip(ranks, (0.01 + 2 * COMPUTE, 0.02 + COMPUTE, COMPUTE), strict=True):
        np.testing.assert_allclose(seconds(rows, "compute"), expected, rtol=1e-5)
    told = {event["rank"]: event["message"] for event in read_events(tmp_path) if event["kind"] == "fault"}
    assert told == {0: "slowed 2x and by 0.01 s a step", 1: "slowed by 0.02 s a step"}


def test_a_straggler_trains_what_it_would_train_anyway(tmp_path: Path) -> None:
    losses = [
        [rows["loss"].tolist() for rows in steps_of(tmp_path / name, Job(steps=6, batch_size=16, slow=slow), 2)]
        for name, slow in (("alone", {}), ("slow", {0: 3}))
    ]
    assert losses[0] == losses[1]


class Clock:
    """A recorder with a clock that a test moves."""

    def __init__(self, rank: int = 0) -> None:
        self.rank, self.now, self.told = rank, 0.0, []

    def seconds(self) -> float:
        return self.now

    def mark(self, phase: str) -> None:
        self.told.append((phase, self.now))

    def restart(self) -> None:
        self.told.clear()

    def event(self, kind: str, step: int, **what: Any) -> None:
        pass


def test_waits_that_are_too_long_are_made_up_for() -> None:
    clock = Clock()

    def oversleep(seconds: float) -> None:
        clock.now += seconds + 1e-4

    pace = Pace((Slow(0, factor=3),), clock, oversleep)  # type: ignore[arg-type]
    for step in range(100):
        clock.now += 0.5  # an exchange, which is not the rank's own work
        pace.mark("exchange")
        for phase, own in (("load", 1e-5), ("compute", 1e-3), ("update", 3e-5)):
            clock.now += own
            pace.mark(phase)
        assert clock.now == pytest.approx((step + 1) * (0.5 + 3 * (1e-5 + 1e-3 + 3e-5)), abs=2e-4)


def test_others_are_not_slowed() -> None:
    clock = Clock(rank=1)
    pace = Pace((Slow(0, factor=3, seconds=1),), clock, lambda seconds: pytest.fail("it waits"))  # type: ignore[arg-type]
    clock.now = 1.0
    pace.mark("compute")
    pace.hold()
    assert clock.told == [("compute", 1.0)]


def test_a_straggler_is_late_with_every_bucket() -> None:
    shares, strategy = ((10, 0.5), (650, 0.6), (4810, 1.0)), Synchronous(overlap=True, bucket_bytes=1)

    class Told(Exchange):
        def bucket_ready(self, index: int) -> None:
            handed.append((self.worker.arena.segments, self.comm.now()))

    handed: list[Any] = []

    def body(comm: Communicator) -> list[float]:
        module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 10))
        arena = Arena(module)
        worker = Worker(arena, module, SGD(), 4, lambda: 0.1, np.random.default_rng(0), 0, 1)
        clock = Clock()
        clock.seconds = comm.now  # type: ignore[method-assign]
        pace = Pace((Slow(0, factor=4, seconds=0.25),), clock, comm.compute)  # type: ignore[arg-type]
        with readiness(strategy, comm, worker, Told(comm, worker), Charges(comm, Costs(0.1, 0.0, (), shares)), pace.hold) as backward:
            pace.mark("load")
            backward(module(torch.ones(1, 64)).sum())
            backward.complete()
        ends = [bucket.stop for bucket in strategy.buckets(arena)]
        assert len(ends) == len(handed)
        return ends

    ends = VirtualWorld(1).run(body)[0]
    expected = [0.25 + 4 * 0.1 * next(share for stop, share in shares if end <= stop) for end in ends]
    np.testing.assert_allclose([now for _, now in handed], expected, rtol=1e-9)


def test_an_abort_ends_a_wait_that_has_no_end() -> None:
    inbox, raised = Inbox(), threading.Event()

    def wait() -> None:
        with pytest.raises(Aborted, match="while a fault made this rank wait"):
            inbox.sleep(1e300)
        raised.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    inbox.put(1, "pause")  # a command ends no wait
    assert not raised.wait(0.05)
    inbox.put(0, "abort")
    assert raised.wait(60)
    waiting.join()


@pytest.mark.mpi
def test_two_real_ranks() -> None:
    done = mpiexec(2, "tests.training.pace_ranks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a straggler is slow on 2 ranks" in done.stdout
