"""A run of a virtual cluster as the notebook follows it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from workbench.channel.arrivals import Arrivals, OnEvent, OnRows
from workbench.channel.messages import LIMIT, Rows
from workbench.channel.verdict import nobody
from workbench.cluster.child import Child
from workbench.cluster.simulation import SOURCE
from workbench.errors import ClusterGone, WorkbenchError
from workbench.store import read_source, write_json
from workbench.telemetry import TABLES

ABORT_SECONDS: Final = 3.0
"""A world that has not ended the run so long after an abort is killed; the next run gets a fresh one."""


@final
class WorldFeed:
    """The records, events and end of one run, and the way for commands. All ranks are one source, `world.0`."""

    def __init__(self, child: Child, folder: Path, ranks: int) -> None:
        self._child, self.folder, self._run, self._ranks = child, Path(folder), str(folder), ranks
        self._arrivals = Arrivals(self.folder.name, self._missed_events)
        self.subscribe, self.subscribe_events = self._arrivals.subscribe, self._arrivals.subscribe_events
        self._counts: dict[str, int] = {}
        self._told: dict[int, dict[str, Any]] = {}
        self._ended: dict[str, Any] | None = None
        self._aborted = False
        self.killed = False
        """Whether the world was killed because it did not heed an abort."""
        self._over, self._closing = threading.Event(), threading.Lock()

    subscribe: Callable[[OnRows], Callable[[], None]]
    """Have `callback(source, table, first, rows)` called, on the feed's thread, for the rows that arrive from now on."""
    subscribe_events: Callable[[OnEvent], Callable[[], None]]
    """Have `callback(event)` called, on the feed's thread, for what happens from now on: in order, without a gap."""

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows so far."""
        report = self._ask("state")
        if report is not None and report["run"] == self._run:
            self._counts = report["counts"].get(SOURCE, self._counts)
        return {SOURCE: dict(self._counts)}

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(number of the first, rows) of what has been recorded from `since` on; from the world, or else from the disk."""
        parts: list[Rows] = []
        first = following = since
        while (answer := self._ask("pull", run=self._run, table=table, since=following)) is not None:
            if not parts:
                first = answer["first"]
            parts.append(answer["rows"])
            following = answer["first"] + len(answer["rows"])
            if len(answer["rows"]) < LIMIT:
                return first, np.concatenate(parts)
        with contextlib.suppress(OSError):
            return read_source(self.folder, source, table, since)
        return since, np.zeros(0, TABLES[table])

    def command(self, verb: str, options: dict[str, Any]) -> int:
        """Send a command to all ranks; its number (0 for "abort", which needs none). ClusterGone if the world is."""
        if verb == "abort":
            self._child.tell("abort", run=self._run)
            if not self._aborted:
                self._aborted = True
                threading.Thread(target=self._insist, name=f"abort of {self.folder.name}", daemon=True).start()
            return 0
        answer = self._child.ask("order", run=self._run, verb=verb, options=options)
        if answer is None:
            raise WorkbenchError(f"the virtual world does not answer, so {verb!r} has no effect yet; restart() the cluster")
        return int(answer["number"])

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> "state", "operation" it waits for (None: none), "since_seconds" (virtual), "step", and whether it has "answered"."""
        answer = self._ask("beacons", timeout=1.0, run=self._run)
        if answer is not None:
            self._told = answer["beacons"]
        unknown = {"state": "starting", "operation": None, "since_seconds": 0.0, "step": 0}
        return {rank: {**self._told.get(rank, unknown), "answered": answer is not None} for rank in range(self._ranks)}

    def finished(self) -> dict[str, Any] | None:
        """None while the run goes on; then {"status": "done", "stopped" or "failed", "steps", "error": None or its particulars}."""
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until the run has ended and all its records have been handed on; False after `timeout` seconds."""
        return self._over.wait(timeout)

    # what the world says, on the child's thread

    def arrived(self, message: dict[str, Any]) -> None:
        """Take in what the world has pushed."""
        if message["run"] != self._run:
            return
        match message["push"]:
            case "rows":
                self._counts[message["table"]] = message["first"] + len(message["rows"])
                self._arrivals.rows(SOURCE, message["table"], message["first"], message["rows"])
            case "event":
                self._arrivals.event(0, message["event"])
            case "outcome":
                self._end_soon(message["ended"])

    def lost(self, why: str) -> None:
        """The world is gone: the run, if it was on, has failed."""
        ended: dict[str, Any] = {"status": "failed", "steps": 0, "error": nobody(why)}
        if self._aborted:
            ended = {"status": "stopped", "steps": max((int(told["step"]) for told in self._told.values()), default=0), "error": None}
        if self._ended is None:
            with contextlib.suppress(OSError):
                write_json(self.folder / "status.json", ended)
        self._end_soon(ended)

    def _insist(self) -> None:
        """A model that sleeps, or never comes to a step's end, does not hear of an abort."""
        if not self.wait(ABORT_SECONDS):
            self.killed = True
            self._child.kill()

    def _end_soon(self, ended: dict[str, Any]) -> None:
        # on a thread of its own: those who are handed the last rows may ask the world something meanwhile
        threading.Thread(target=self._end, args=(ended,), name=f"end of {self.folder.name}", daemon=True).start()

    def _end(self, ended: dict[str, Any]) -> None:
        with self._closing:
            if self._ended is None:
                self._arrivals.drain(10)
                self._ended = ended
                self._arrivals.close()
                self._over.set()

    def _ask(self, what: str, **content: Any) -> dict[str, Any] | None:
        with contextlib.suppress(ClusterGone, ValueError):  # gone, or in another run by now: the disk knows
            return self._child.ask(what, **content)
        return None

    def _missed_events(self, rank: int, since: int) -> list[dict[str, Any]]:
        answer = self._ask("events", run=self._run, since=since)
        return list(answer["events"]) if answer is not None else []
