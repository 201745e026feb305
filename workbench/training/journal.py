"""What a source has recorded: appended by training threads, carried to the disk and to the notebook by one flusher thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from workbench.store import Rows, RunLog, read_source
from workbench.telemetry import TABLES

PUSH_SECONDS: Final = 0.1
WRITE_SECONDS: Final = 0.5
KEPT_ROWS: Final = 50_000  # per table, in memory, for views that ask again; older rows come from the disk

Push = Callable[[str, int, Rows], None]
"""Takes (table, number of the first row, rows) to the notebook."""


@final
class Journal:
    """The records of one source, numbered per table from 0 without gaps.

    `append` and `event` cost a training thread a list append; everything else happens on the flusher's thread, or on
    that of whoever pulls.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = source, folder
        self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
        self._events: list[dict[str, Any]] = []
        self._next_event = 0
        self._next = dict.fromkeys(TABLES, 0)
        self._kept: dict[str, deque[tuple[int, Rows]]] = {table: deque() for table in TABLES}
        self._lock = threading.Lock()
        self.stirred = threading.Event()
        """Set when something happened, which is carried at once; rows wait for the next round."""

    def append(self, table: str, row: tuple[Any, ...]) -> None:
        """Record one row: its values in the order of the table's columns."""
        self._rows[table].append(row)

    def event(self, kind: str, **what: Any) -> None:
        """Record that something happened; `kind` is one of `telemetry.EVENTS`."""
        with self._lock:
            self._events.append({"kind": kind, **what, "source": self.source, "number": self._next_event})
            self._next_event += 1
        self.stirred.set()

    def take(self) -> tuple[list[tuple[str, int, Rows]], list[dict[str, Any]]]:
        """What has come since the last call: batches and events. For the flusher."""
        batches = []
        for table, rows in self._rows.items():
            if count := len(rows):
                taken = rows[:count]
                del rows[:count]  # a row that is appended between the two lines stays for the next time
                batches.append((table, self._keep(table, np.array(taken, TABLES[table])), self._kept[table][-1][1]))
        with self._lock:
            events, self._events = self._events, []
        return batches, events

    def counts(self) -> dict[str, int]:
        """Table -> number of the next row to be taken."""
        return dict(self._next)

    def pull(self, table: str, since: int) -> tuple[int, Rows]:
        """(number of the first row, rows) from `since` on, as many as are known; older ones are read from the disk."""
        with self._lock:
            kept = list(self._kept[table])
        if not kept or since >= self._next[table]:
            return since, np.zeros(0, TABLES[table])
        if since < kept[0][0]:
            first, rows = read_source(self.folder, self.source, table, since)
            if len(rows):
                return first, rows
        first = max(since, kept[0][0])
        return first, np.concatenate([rows[max(0, first - start) :] for start, rows in kept])

    def _keep(self, table: str, rows: Rows) -> int:
        kept = self._kept[table]
        with self._lock:
            first = self._next[table]
            kept.append((first, rows))
            self._next[table] = first + len(rows)
            while len(kept) > 1 and self._next[table] - kept[1][0] >= KEPT_ROWS:
                kept.popleft()
        return first


@final
class Flusher:
    """Carries a journal's records to the run folder (every half second) and to the notebook (10 times a second, events at once).

    A full disk ends neither the training nor the pushes: records are kept and tried again, and an event says so.
    """

    def __init__(self, journal: Journal, push: Push | None = None, push_event: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.journal, self._push, self._push_event = journal, push, push_event
        self._log = RunLog(journal.folder, journal.source)
        self._unwritten: dict[str, list[tuple[int, Rows]]] = {table: [] for table in TABLES}
        self._unwritten_events: list[dict[str, Any]] = []
        self._ended = False
        self._complaint = ""
        self._written = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Carry what is left and end. Returns when all is on the disk, or the disk has refused it once more."""
        self._ended = True
        self.journal.stirred.set()
        self._thread.join()

    def _run(self) -> None:
        stirred = self.journal.stirred
        while not self._ended:
            stirred.wait(PUSH_SECONDS)
            stirred.clear()
            self._carry(last=False)
        self._carry(last=True)
        with contextlib.suppress(OSError):  # what could not be written has been complained of
            self._log.close()

    def _carry(self, last: bool) -> None:
        batches, events = self.journal.take()
        for table, first, rows in batches:
            self._unwritten[table].append((first, rows))
            if self._push is not None:
                self._push(table, first, rows)
        for event in events:
            self._unwritten_events.append(event)
            if self._push_event is not None:
                self._push_event(event)
        if last or events or time.monotonic() - self._written >= WRITE_SECONDS:
            self._written = time.monotonic()
            self._write()

    def _write(self) -> None:
        try:
            for table, waiting in self._unwritten.items():
                if waiting:
                    self._log.append(table, waiting[0][0], np.concatenate([rows for _, rows in waiting]))
                    waiting.clear()
            while self._unwritten_events:
                self._log.event(self._unwritten_events[0])
                del self._unwritten_events[0]
            self._complaint = ""
        except OSError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self.journal.event("warning", message=f"records of {self.journal.source} cannot be written yet: {error}")
