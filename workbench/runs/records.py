"""What is known of a run: records and events as they come, repaired, observed by whoever shows them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from workbench.runs.cache import LIMIT_BYTES, Cache, Held, News
from workbench.runs.ending import ending_of, last_change
from workbench.runs.feed import Feed, FolderFeed
from workbench.runs.repair import Repair
from workbench.runs.strategy import servers_in
from workbench.store import Rows, StreamReader, read_events, streams

CHECK_SECONDS: Final = 0.05

log = logging.getLogger(__name__)


@final
class Records:
    """The records of one run: from a feed as they come, or from the folder of a run that is over. Thread-safe.

    `ended` is None while the run goes on, then what the feed said of its end; `over` is set at the same time.
    """

    def __init__(self, folder: Path, feed: Feed | None, limit_bytes: float = LIMIT_BYTES) -> None:
        self.folder, self.feed = folder, feed
        self.cache = Cache(limit_bytes if feed is not None else float("inf"))
        self.ended: dict[str, Any] | None = None
        self.over, self.closed = threading.Event(), threading.Event()
        self._observers: tuple[Callable[[str], None], ...] = ()
        self._lock = threading.Lock()
        self._unsubscribe: list[Callable[[], None]] = []
        self._damage: list[str] = []
        self._warned = False
        for event in read_events(folder, self._damage):
            self.cache.event(event)
        if feed is None:
            self._loaded = False
            self.ended = ending_of(folder, self.cache.events(), last_change(folder), self._damage) or _NOT_FOLLOWED
            self.over.set()
            return
        self._loaded = True
        self._repair = Repair(feed, folder, self.cache)
        self._unsubscribe = [feed.subscribe(self._rows_came), feed.subscribe_events(self._event_came)]
        threading.Thread(target=self._keep, name=f"run {folder.name}", daemon=True).start()

    def close(self) -> None:
        """Follow the run no longer."""
        self.closed.set()
        for unsubscribe in self._unsubscribe:
            unsubscribe()

    @property
    def damage(self) -> list[str]:
        """What of the folder could not be read, a line each; of a run that goes on only what was damaged before, for its end is being written."""
        self._load()
        return self._told()

    def lost(self, steps: Rows) -> int:
        """Rows that will never come: known from their numbers, and of a run that is over those of `steps` that its ranks had told of at their end."""
        self._load()
        short = 0
        if self.ended is not None:
            events = self.cache.events()
            servers = servers_in(events)  # which record no steps
            ends = (event for event in events if event["kind"] == "end" and "rank" in event and event["rank"] not in servers)
            told = {event["rank"]: int(event.get("step") or 0) for event in ends}
            short = sum(max(0, count - int((steps["rank"] == rank).sum())) for rank, count in told.items())
        # rows that are missing between others are among both
        return self.cache.lost + max(0, short - self.cache.lost_of("steps"))

    def observe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have `callback("rows" | "events" | "status")` called when something has come; returns what ends it."""
        with self._lock:
            self._observers = (*self._observers, callback)

        def stop() -> None:
            with self._lock:
                self._observers = tuple(other for other in self._observers if other is not callback)

        return stop

    def tell(self, what: str) -> None:
        """Call the observers."""
        for observer in self._observers:
            try:
                observer(what)
            except Exception:  # a broken view must not end the feed of the others
                log.exception("an observer of %s failed", self.folder.name)

    def held(self, table: str) -> Rows:
        """The rows of a table that are in memory."""
        self._load()
        return self.cache.rows(table)

    def newest(self, table: str) -> Rows:
        """The newest rows of each rank."""
        self._load()
        return self.cache.newest(table)

    def whole(self, table: str) -> Rows:
        """All rows of a table; those that left the memory are read from the disk."""
        self._load()
        return self._completed(table, self.cache.held(table)[0][table])

    def since(self, marker: int) -> News:
        """What has come since a marker; with marker 0 also what has left the memory."""
        self._load()
        news = self.cache.since(marker)
        if news.whole or marker > 0:
            return news
        held, now = self.cache.held()
        rows = {table: found for table, kept in held.items() if len(found := self._completed(table, kept))}
        return News(now, rows, self.cache.events(upto=now), whole=True)

    def _completed(self, table: str, held: Held) -> Rows:
        """What is held, behind the older rows from the disk."""
        if not held.dropped:
            return held.rows
        try:
            older = [batch for _, _, path in streams(self.folder, table) for batch in StreamReader(path).read()]
        except OSError:
            older = []
        parts = [batch.rows[: max(0, held.begins.get(batch.source, 0) - batch.first)] for batch in older]
        if not any(len(part) for part in parts):
            warnings.warn(f"{self.folder} cannot be read from here: only the newest {len(held.rows)} rows of {table} are shown", stacklevel=4)
        return np.concatenate([*parts, held.rows])

    def _rows_came(self, source: str, table: str, first: int, rows: Rows) -> None:
        if self.cache.add(source, table, first, rows):
            self._repair.wake.set()
        self.tell("rows")

    def _event_came(self, event: dict[str, Any]) -> None:
        if self.cache.event(event):
            self.tell("events")

    def _keep(self) -> None:
        """Repair holes and notice the end, until the run is over or nobody follows it any more."""
        assert self.feed is not None
        joins = bool(streams(self.folder))
        while not self.closed.is_set():
            self._repair.wake.wait(CHECK_SECONDS)
            try:
                if joins:
                    self._repair.begin()
                    self.tell("rows")
                    joins = False
                ended = self.feed.finished()
                if ended is not None:
                    self._repair.all()
                elif self._repair.holes():
                    self.tell("rows")
            except Exception as error:  # it must be seen, and whoever waits for the run must not wait for ever
                log.exception("following %s failed", self.folder.name)
                ended = {"status": "failed", "steps": 0, "error": {"rank": -1, "where": f"it could not be followed any more: {error!r}"}}
            if ended is not None:
                self.ended = ended
                self.over.set()
                for what in ("rows", "events", "status"):
                    self.tell(what)
                return

    def _load(self) -> None:
        """Of a run without a feed: read its folder, once. Of one that is over: warn of damage, once."""
        self._read()
        if self.ended is not None and not self._warned:
            self._warned = True
            if damage := self._told():
                warnings.warn(f"{self.folder.name} is damaged: {'; '.join(damage)}", stacklevel=4)

    def _told(self) -> list[str]:
        followed = self.feed.damage if isinstance(self.feed, FolderFeed) and self.ended is not None else []
        return list(dict.fromkeys([*self._damage, *followed]))

    def _read(self) -> None:
        if self._loaded:
            return
        with self._lock:
            if not self._loaded:
                for source, table, path in streams(self.folder):
                    reader = StreamReader(path)
                    for batch in reader.read():
                        self.cache.fill(source, table, self.cache.next(source, table), batch.first, batch.rows)
                    self._damage += [reader.torn] if reader.torn else []
                self._loaded = True


_NOT_FOLLOWED: Final = {
    "status": "failed",
    "steps": 0,
    "error": {"rank": -1, "where": "it may still go on, but is not followed; Run.open(folder) follows it"},
}
