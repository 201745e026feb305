"""What a panel reads from a run, as words and numbers; the run knows nothing of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from workbench.runs.strategy import is_lockstep, roles_of, strategy_words, workers_of
from workbench.store import Rows
from workbench.telemetry import TABLES

from . import words
from .lights import Light

ENDED: Final = ("done", "failed", "stopped")
LONG: Final = 0.3
"""Seconds that a rank waits for others before its light says so; shorter waits are part of every step."""


@final
@dataclass(frozen=True)
class Look:
    """How a run stands at one moment, ready to be shown."""

    status: str
    done: float
    """Share of the run that is done, 0 to 1."""
    title: str
    """The job in one line."""
    sentence: str
    """What the run is doing, or how it ended."""
    tiles: tuple[tuple[str, str], ...]
    """The numbers that are shown large: name and text."""
    lights: tuple[Light, ...]


@final
class Reading:
    """One run, followed by its marker: `fresh` gives every row once."""

    def __init__(self, run: Any, ranks: int) -> None:
        self.run, self.ranks = run, ranks
        self.workers, self.lockstep = workers_of(run.job, ranks), is_lockstep(run.job)
        self._servers = {rank for rank, role in enumerate(roles_of(run.job, ranks)) if role == "server"}
        self.rate = float(run.job.get("learning_rate", math.nan))
        """The learning rate that is in force."""
        self._marker = 0
        self._changed_at: int | None = None
        self._said = ""
        self._faults: dict[int, str] = {}
        """Rank -> what goes wrong on it, in words."""

    @property
    def status(self) -> str:
        """starting running paused stopping done failed stopped."""
        return str(self.run.status)

    def changed(self) -> bool:
        """Whether the status is another one than at the last call."""
        before, self._said = self._said, self.status
        return before != self._said

    def fresh(self) -> tuple[tuple[Rows, ...], bool]:
        """New rows of `DRAWN`, and whether they begin anew: what was given out before is to be forgotten."""
        news = self.run.since(self._marker)
        anew = not news.whole and self._marker > 0
        if anew:
            news = self.run.since(0)
        self._marker = news.marker
        for event in news.events:
            if event["kind"] == "change" and event.get("learning_rate") is not None:
                self.rate, self._changed_at = float(event["learning_rate"]), int(event["step"])
            if event["kind"] == "fault":
                self._faults[int(event["rank"])] = str(event["message"])
        return tuple(news.rows.get(table, none) for table, none in DRAWN.items()), anew

    def look(self) -> Look:
        """How the run stands now."""
        now = self.run.progress()
        status = str(now["status"])
        return Look(
            status=status,
            done=1.0 if status == "done" else float(now["fraction"] or 0.0),
            title=title(self.run.job),
            sentence=self._sentence(status, now["step"]),
            tiles=tuple(_tiles(now)),
            lights=tuple(self._lights(status)),
        )

    def _sentence(self, status: str, step: int) -> str:
        steps = f"{words.count(step)} step{'s' * (step != 1)}"
        told = {
            "starting": "starting: the ranks load the model and the data",
            "running": f"training {title(self.run.job)}",
            "paused": f"paused after {steps}; Resume goes on",
            "stopping": "stopping at the next step on which the ranks agree",
            "done": f"done: {title(self.run.job)} · {self.run.folder.name}",
            "stopped": f"stopped after {steps}; what was recorded is kept · {self.run.folder.name}",
            "failed": f"the run failed: {self._blame()}",
        }.get(status, status)
        if self._changed_at is not None and status in ("running", "paused"):
            told += f" · rate {self.rate:g} from step {words.count(self._changed_at)} on"
        return told

    def _blame(self) -> str:
        error = self.run.error or {}
        where = str(error.get("where") or "nobody told why")
        if int(error.get("rank", -1)) < 0:
            return where
        place = ", ".join(str(error[name]) for name in ("host", "device") if error.get(name))
        return f"rank {error['rank']}{f' ({place})' if place else ''} at step {error.get('step')}: {where}"

    def _lights(self, status: str) -> list[Light]:
        if status in ENDED:
            culprit = int((self.run.error or {}).get("rank", -1)) if status == "failed" else -1
            state = "done" if status == "done" else "stopped"
            return [Light(rank, "failed" if rank == culprit else state, server=rank in self._servers) for rank in range(self.ranks)]
        beacons = self.run.beacons()
        return [_light(rank, beacons.get(rank), rank in self._servers, self._faults.get(rank, "")) for rank in range(self.ranks)]


def title(job: dict[str, Any]) -> str:
    """A job in one line."""
    length = f"{job.get('steps')} steps" if job.get("steps") else f"{job.get('epochs')} epoch{'s' * (job.get('epochs') != 1)}"
    strategy = strategy_words(job.get("strategy") or {})
    return f"{job.get('model')} on {job.get('data')}, {length}, batch {job.get('batch_size')}, rate {job.get('learning_rate'):g}, {strategy}"


def _tiles(now: dict[str, Any]) -> list[tuple[str, str]]:
    step, epoch = words.count(now["step"]), "–" if now["epoch"] is None else str(now["epoch"])
    return [
        ("step", f"{step} / {words.count(now['steps'])}" if now["steps"] else step),
        ("epoch", f"{epoch} / {now['epochs']}" if now["epochs"] and now["epoch"] is not None else epoch),
        ("loss", words.loss(now["loss"])),
        ("accuracy", words.share(now["accuracy"], 1)),
        ("samples/s", words.count(now["samples_per_second"])),
        ("exchanging", words.share(now["exchange_share"])),
        ("time", words.duration(now["seconds"])),
    ]


def _light(rank: int, beacon: dict[str, Any] | None, server: bool, fault: str) -> Light:
    if beacon is None:
        return Light(rank, "starting", "not heard of yet", server)
    done, state = int(beacon["step"]), str(beacon["state"])
    at = f"{words.count(done)} update{'s' * (done != 1)}" if server else f"at step {words.count(done)}"
    operation, since = beacon["operation"], float(beacon["since_seconds"])
    if state in ("lost", "failed"):
        return Light(rank, "failed", f"lost {at}" if state == "lost" else at, server)
    if state in ("starting", "idle"):
        return Light(rank, "starting", "loading the model and the data", server)
    if not beacon["answered"]:
        return Light(rank, "silent", f"last heard of {at}", server)
    if state in ("paused", "done", "stopped"):
        return Light(rank, state, at, server)
    if server:  # to wait is its work
        return Light(rank, "serving", at, server)
    if operation is not None and since > LONG:
        return Light(rank, "waiting", f"{at} in {operation} for {since:.1f} s")
    return Light(rank, "training", f"{at}, {fault}" if fault else at)


DRAWN: Final[dict[str, Rows]] = {name: np.empty(0, TABLES[name]) for name in ("steps", "validation", "traffic")}
"""The tables that are drawn, without a row."""
