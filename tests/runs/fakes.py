"""A feed whose ranks are arrays: pushes are lost, doubled and out of order as a test wishes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.job import Job
from workbench.store import Rows, RunLog, write_json
from workbench.telemetry import TABLES

SECONDS = 0.05


def steps_of(rank: int, count: int, first: int = 0, per_epoch: int = 50) -> Rows:
    """Steps of one rank, 50 ms each: 1 load, 20 + rank compute, 2 update, the rest exchange."""
    rows = np.zeros(count, TABLES["steps"])
    rows["rank"], rows["step"] = rank, np.arange(first, first + count)
    rows["epoch"] = rows["step"] // per_epoch
    rows["samples"] = 32
    rows["loss"] = 2 / (1 + rows["step"]) + 0.01 * rank
    rows["learning_rate"] = 0.1
    rows["start_seconds"] = 1 + rows["step"] * SECONDS
    rows["load_seconds"], rows["compute_seconds"], rows["update_seconds"] = 0.001, 0.020 + 0.001 * rank, 0.002
    rows["exchange_seconds"] = SECONDS - 0.023 - 0.001 * rank
    rows["hidden_seconds"] = 0.004
    rows["bytes_sent"] = 1000
    rows["sketch"] = np.nan
    return rows


def validations_of(*steps: int) -> Rows:
    rows = np.zeros(len(steps), TABLES["validation"])
    rows["rank"], rows["step"], rows["samples"] = -1, steps, 360
    rows["loss"], rows["accuracy"] = 1 / (1 + rows["step"]), np.linspace(0.5, 0.9, len(steps))
    rows["seconds"] = 1 + rows["step"] * SECONDS
    return rows


def start_event(rank: int, ranks: int, steps: int = 100) -> dict[str, Any]:
    return event(rank, 0, "start", 0, 1.0, host="node", device="cpu", workers=ranks, steps=steps, steps_per_epoch=50, dropped_samples=29)


def event(rank: int, number: int, kind: str, step: int, seconds: float, **what: Any) -> dict[str, Any]:
    return {"kind": kind, "source": source_of(rank), "number": number, "rank": rank, "step": step, "seconds": seconds, **what}


def source_of(rank: int) -> str:
    return f"rank-{rank:05d}.0"


def write_run(folder: Path, ranks: int = 3, steps: int = 100, status: str | None = "done", end: bool = True, job: Job | None = None) -> Path:
    """The folder of a run as the ranks and whoever followed it leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", (job or Job()).to_json())
    for rank in range(ranks):
        log = RunLog(folder, source_of(rank))
        log.event(start_event(rank, ranks, steps))
        rows = steps_of(rank, steps)
        for first in range(0, steps, 9):
            log.append("steps", first, rows[first : first + 9])
        if rank == 0:
            log.append("validation", 0, validations_of(*range(49, steps, 50)))
        if end:
            log.event(event(rank, 1, "end", steps, 1 + steps * SECONDS, status=status or "done"))
        log.close()
    if status is not None:
        write_json(folder / "status.json", {"status": status, "steps": steps, "error": None})
    return folder


class FakeFeed:
    """Ranks that have recorded `truth`: (source, table) -> rows. What `pull` gives begins at `remembered`, `limit` rows at a time."""

    def __init__(self, truth: dict[tuple[str, str], Rows] | None = None) -> None:
        self.truth = truth or {}
        self.shown = {key: len(rows) for key, rows in self.truth.items()}
        self.remembered: dict[tuple[str, str], int] = {}
        self.limit = 1 << 30
        self.deaf = 0
        self.pulls: list[tuple[str, str, int]] = []
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.ended: dict[str, Any] | None = None
        self.lock = threading.Lock()
        self._rows: list[Callable[[str, str, int, Rows], None]] = []
        self._events: list[Callable[[dict[str, Any]], None]] = []

    def sources(self) -> dict[str, dict[str, int]]:
        if self.deaf:
            raise WorkbenchError("nobody answers")
        told: dict[str, dict[str, int]] = {}
        for source, table in self.truth:
            told.setdefault(source, {})[table] = self.shown[source, table]
        return told

    def subscribe(self, callback: Callable[[str, str, int, Rows], None], /) -> Callable[[], None]:
        self._rows.append(callback)
        return lambda: self._rows.remove(callback)

    def subscribe_events(self, callback: Callable[[dict[str, Any]], None], /) -> Callable[[], None]:
        self._events.append(callback)
        return lambda: self._events.remove(callback)

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        with self.lock:
            self.pulls.append((source, table, since))
            if self.deaf > 0:
                self.deaf -= 1
                raise WorkbenchError("nobody answers")
        first = max(since, self.remembered.get((source, table), 0))
        rows = self.truth[source, table] if (source, table) in self.truth else np.empty(0, TABLES[table])
        return first, rows[first : min(first + self.limit, self.shown.get((source, table), 0))]

    def command(self, verb: str, options: dict[str, Any]) -> int:
        self.commands.append((verb, options))
        return len(self.commands)

    def beacons(self) -> dict[int, dict[str, Any]]:
        return {0: {"state": "running", "operation": None, "since_seconds": 0.0, "step": 3, "answered": True}}

    def finished(self) -> dict[str, Any] | None:
        return self.ended

    def push(self, source: str, table: str, first: int, count: int) -> None:
        for callback in list(self._rows):
            callback(source, table, first, self.truth[source, table][first : first + count])

    def tell(self, told: dict[str, Any]) -> None:
        for callback in list(self._events):
            callback(told)

    def end(self, status: str = "done", error: dict[str, Any] | None = None) -> None:
        self.ended = {"status": status, "steps": 100, "error": error}
