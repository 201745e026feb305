"""Filling the holes in what was pushed: by asking the rank, else from the disk, else by admitting the loss."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Final, final

import numpy as np

from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.runs.cache import Cache
from workbench.runs.feed import Feed
from workbench.store import Rows, read_source
from workbench.telemetry import TABLES

RETRY_SECONDS: Final = 0.5
TRIES: Final = 6

log = logging.getLogger(__name__)


@final
class Repair:
    """Fills the holes of a run's cache. For one thread; `wake` may be set by any."""

    def __init__(self, feed: Feed, folder: Path, cache: Cache) -> None:
        self._feed, self._folder, self._cache = feed, folder, cache
        self.wake = threading.Event()
        self._tries: dict[tuple[str, str], int] = {}
        self._not_before = 0.0

    def begin(self) -> None:
        """Somebody joins a run that is on: bring what its ranks have recorded so far."""
        for source, table, count in self._counts():
            since = self._cache.next(source, table)
            if since < count:
                first, rows = self._pulled(source, table, since)
                if len(rows):
                    self._cache.fill(source, table, since, first, rows)

    def holes(self) -> bool:
        """Fill the holes that are known of; whether something came. Who cannot answer is asked again a little later, a few times."""
        self.wake.clear()
        if time.monotonic() < self._not_before:
            return False
        came = False
        for source, table, since in self._cache.holes():
            key = (source, table)
            first, rows = self._pulled(source, table, since)
            tries = self._tries.get(key, 0) + 1
            if not len(rows) and tries < TRIES:
                self._tries[key] = tries
                self._not_before = time.monotonic() + RETRY_SECONDS
                continue
            self._tries.pop(key, None)
            came = True
            if self._cache.fill(source, table, since, first, rows):
                self.wake.set()
        return came

    def all(self) -> None:
        """The run is over: bring everything that its ranks, or the disk, still have."""
        for source, table, count in self._counts():
            self._until(source, table, count)
        for source, table, since in self._cache.holes():
            self._until(source, table, since + 1)

    def _counts(self) -> list[tuple[str, str, int]]:
        """(source, table, rows so far), asked of the ranks; nothing if they cannot be asked."""
        try:
            sources = self._feed.sources()
        except (WorkbenchError, OSError) as error:
            log.info("asking the ranks of %s failed: %s", self._folder.name, error)
            sources = {}
        return [(source, table, count) for source, tables in sources.items() for table, count in tables.items()]

    def _until(self, source: str, table: str, count: int) -> None:
        """Pull a stream until it has `count` rows and no hole."""
        while (since := self._cache.next(source, table)) < count or any(hole[:2] == (source, table) for hole in self._cache.holes()):
            self._cache.fill(source, table, since, *self._pulled(source, table, since))
            if self._cache.next(source, table) == since:  # nobody has more
                self._cache.lose(table, count - since)
                return

    def _pulled(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(first, rows) from `since` on, from the rank or the disk; no rows if neither has any."""
        try:
            first, rows = self._feed.pull(source, table, since)
            if len(rows):
                return first, rows
        except (WorkbenchError, OSError) as error:
            log.info("pulling %s of %s failed: %s", table, source, error)
        try:
            return read_source(self._folder, source, table, since)
        except (RunFolderDamaged, OSError) as error:
            log.info("reading %s of %s failed: %s", table, source, error)
            return since, np.empty(0, TABLES[table])
