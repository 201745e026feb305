"""A cluster and a run that do what they are told at once, with the faces of the real ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.cluster.status import ClusterStatus, RankStatus
from workbench.errors import ClusterBusy, ClusterGone
from workbench.job import Job
from workbench.runs.cache import Cache, News
from workbench.runs.figures import Progress, progress
from workbench.store import Rows
from workbench.telemetry import NO_SKETCH, STEPS


def steps(first: int, count: int, ranks: int = 2) -> Rows:
    """`count` steps of each rank, ten a second."""
    rows = [
        (rank, step, 0, 32, 2.0 / (1 + step), 0.1, 0.1 * step, 0.001, 0.05, 0.001, 0.01, 0.0, 0.0, 1.0, 800, 800, 2, float("nan"), NO_SKETCH)
        for step in range(first, first + count)
        for rank in range(ranks)
    ]
    return np.array(rows, STEPS)


@dataclass
class FakeRun:
    """A run whose rows and status are put there by a test."""

    job: dict[str, Any]
    folder: Path = Path("runs/2026-11-21-101502-fake")
    status: str = "running"
    error: dict[str, Any] | None = None
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    cache: Cache = field(default_factory=Cache)
    number: int = 0

    def record(self, rows: Rows) -> None:
        self.cache.add("world.0", "steps", self.number, rows)
        self.number += len(rows)

    def happen(self, kind: str, **what: Any) -> None:
        self.cache.event({"kind": kind, "rank": 0, **what})

    def since(self, marker: int) -> News:
        return self.cache.since(marker)

    def progress(self) -> Progress:
        return progress(self.status, self.job, self.cache.events(), self.cache.rows("steps"), self.cache.rows("validation"))

    def beacons(self) -> dict[int, dict[str, Any]]:
        return self.states

    def wait(self, timeout: float | None = None) -> FakeRun:
        if self.status == "failed":
            raise ClusterGone("the fake run failed")
        return self

    def _tell(self, verb: str, status: str = "", **options: Any) -> None:
        self.told.append((verb, options))
        self.status = status or self.status

    def pause(self) -> None:
        self._tell("pause", "paused")

    def resume(self) -> None:
        self._tell("resume", "running")

    def stop(self) -> None:
        self._tell("stop", "stopping")

    def abort(self) -> None:
        self._tell("abort", "stopped")

    def change(self, **changes: Any) -> None:
        if "learning_rate" not in changes:
            raise ValueError("a run that goes on has no such option to change")
        self._tell("change", **changes)
        self.happen("change", step=7, **changes)


@dataclass
class FakeCluster:
    """A cluster of ranks that are nowhere."""

    ranks: int = 2
    name: str = "fake"
    up: bool = False
    run: FakeRun | None = None
    trouble: Exception | None = None
    gate: threading.Event | None = None
    """`start` waits for it."""

    def start(self) -> FakeCluster:
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.trouble is not None:
            raise self.trouble
        self.up = True
        return self

    restart = start

    def stop(self) -> None:
        self.up = False

    def status(self) -> ClusterStatus:
        if not self.up:
            return ClusterStatus(self.name, self.ranks, "fake", "down")
        rows = [RankStatus(rank, "here", 100 + rank, f"cpu {rank}") for rank in range(self.ranks)]
        return ClusterStatus(self.name, self.ranks, "fake", "up", "Fake MPI 1.0", rows)

    def train(self, job: Job) -> FakeRun:
        if not self.up:
            raise ClusterGone("the fake cluster is down")
        if self.run is not None and self.run.status not in ("done", "failed", "stopped"):
            raise ClusterBusy("a run is on")
        job.check(self.ranks)
        self.run = FakeRun(job.to_json())
        return self.run
