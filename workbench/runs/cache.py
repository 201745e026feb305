"""The notebook's picture of a run: the newest rows of each table, without holes, in bounded memory."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, final

import numpy as np

from workbench.store import Rows
from workbench.telemetry import TABLES

LIMIT_BYTES: Final = 64 << 20
"""Of each table; older rows are read from the disk when they are asked for."""
AHEAD: Final = 1000
"""Batches that may wait behind a hole."""
TAIL: Final = 64
"""Newest rows of each rank that are at hand at once, for what a run does just now."""


class News(NamedTuple):
    """What has come since a marker: `marker` for the next time, new rows by table, new events.

    `whole` is False when rows in between are no longer in memory: begin again from marker 0.
    """

    marker: int
    rows: dict[str, Rows]
    events: list[dict[str, Any]]
    whole: bool


class Held(NamedTuple):
    """Rows of a table in memory; source -> number of its first row there; whether older ones were dropped."""

    rows: Rows
    begins: dict[str, int]
    dropped: bool


@dataclass
class _Stream:
    """Where one source is in one table."""

    next: int = 0
    ahead: list[tuple[int, Rows]] = field(default_factory=list)
    tail: deque[Rows] = field(default_factory=deque)
    tail_rows: int = 0
    ranks: int = 1


class _Chunk(NamedTuple):
    stamp: int
    source: str
    first: int
    rows: Rows


@dataclass
class _Table:
    chunks: deque[_Chunk] = field(default_factory=deque)
    bytes: int = 0
    forgotten: int = 0
    """Stamp of the newest chunk that was dropped."""


@final
class Cache:
    """Takes batches as they come, doubled or out of order, and gives them out in order and once. Thread-safe.

    Rows that come behind a hole wait until it is filled (`fill`). `lost` counts the rows that nobody had any more.
    """

    def __init__(self, limit_bytes: float = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._tables = {name: _Table() for name in TABLES}
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._known_events: set[str] = set()
        self._stamp = 0
        self._lost: dict[str, int] = dict.fromkeys(TABLES, 0)

    def add(self, source: str, table: str, first: int, rows: Rows) -> bool:
        """Take in a batch; whether there is a hole before the newest rows of this stream."""
        with self._lock:
            stream = self._streams.setdefault((source, table), _Stream())
            if first > stream.next:
                stream.ahead.append((first, rows))
                if len(stream.ahead) > AHEAD:  # whoever fills the hole brings these as well
                    del stream.ahead[: AHEAD // 2]
            else:
                self._take(source, table, stream, first, rows)
                self._advance(source, table, stream)
            return bool(stream.ahead)

    def holes(self) -> list[tuple[str, str, int]]:
        """(source, table, number of the first row that is missing) of every hole."""
        with self._lock:
            return [(*key, stream.next) for key, stream in self._streams.items() if stream.ahead]

    def fill(self, source: str, table: str, since: int, first: int, rows: Rows) -> bool:
        """Take in what a pull from `since` on brought; what it does not bring is lost. Whether there is still a hole."""
        with self._lock:
            stream = self._streams.setdefault((source, table), _Stream())
            waiting = [start for start, _ in stream.ahead if start > stream.next]
            # nothing of what is missing before this number will ever come (if the hole is still the one that was asked for)
            known = stream.next
            if first + len(rows) > stream.next:
                known = first
            elif stream.next == since:
                known = min(waiting, default=stream.next)
            stream.ahead.append((first, rows))
            stream.ahead.sort(key=lambda batch: batch[0])
            while stream.ahead and stream.ahead[0][0] <= max(stream.next, known):
                start, batch = stream.ahead.pop(0)
                self._lost[table] += max(0, start - stream.next)
                stream.next = max(stream.next, start)
                self._take(source, table, stream, start, batch)
            return bool(stream.ahead)

    def event(self, event: dict[str, Any]) -> bool:
        """Take in an event; False when it is known already."""
        with self._lock:
            numbered = "source" in event and "number" in event
            name = f"{event['source']}:{event['number']}" if numbered else json.dumps(event, sort_keys=True, default=str)
            if name in self._known_events:
                return False
            self._known_events.add(name)
            self._stamp += 1
            self._events.append((self._stamp, event))
            return True

    def lose(self, table: str, count: int) -> None:
        """So many rows of a table will never come."""
        with self._lock:
            self._lost[table] += count

    @property
    def lost(self) -> int:
        """Rows of all tables that nobody had any more."""
        return sum(self._lost.values())

    def lost_of(self, table: str) -> int:
        """Rows of one table that nobody had any more."""
        return self._lost[table]

    def next(self, source: str, table: str) -> int:
        """Number of the row that comes next in a stream."""
        with self._lock:
            stream = self._streams.get((source, table))
            return stream.next if stream is not None else 0

    def events(self, upto: float = float("inf")) -> list[dict[str, Any]]:
        """All events, in the order in which they came; with a marker those before it."""
        with self._lock:
            return [event for stamp, event in self._events if stamp <= upto]

    def rows(self, table: str) -> Rows:
        """The rows in memory in the order in which they came."""
        with self._lock:
            parts = [chunk.rows for chunk in self._tables[table].chunks]
        return _joined(table, parts)

    def newest(self, table: str) -> Rows:
        """At least the newest `TAIL` rows of each rank, as far as there are so many."""
        with self._lock:
            parts = [rows for (_, name), stream in self._streams.items() if name == table for rows in stream.tail]
        return _joined(table, parts)

    def held(self, *tables: str) -> tuple[dict[str, Held], int]:
        """What is in memory of these tables (of all) at one moment, and the marker of that moment."""
        with self._lock:
            chunks = {name: list(self._tables[name].chunks) for name in tables or TABLES}
            dropped = {name: self._tables[name].forgotten > 0 for name in chunks}
            begins: dict[str, dict[str, int]] = {name: {} for name in chunks}
            for (source, name), stream in self._streams.items():
                if name in begins:
                    begins[name][source] = stream.next
            now = self._stamp
        for name, found in chunks.items():
            for chunk in reversed(found):
                begins[name][chunk.source] = chunk.first
        return {name: Held(_joined(name, [chunk.rows for chunk in found]), begins[name], dropped[name]) for name, found in chunks.items()}, now

    def since(self, marker: int) -> News:
        """What has come after `marker` (0: everything there is)."""
        with self._lock:
            whole = all(table.forgotten <= marker for table in self._tables.values())
            parts: dict[str, list[Rows]] = {}
            for name, table in self._tables.items():
                for chunk in reversed(table.chunks):
                    if chunk.stamp <= marker:
                        break
                    parts.setdefault(name, []).append(chunk.rows)
            events = []
            for stamp, event in reversed(self._events):
                if stamp <= marker:
                    break
                events.append(event)
            now = self._stamp
        return News(now, {name: _joined(name, found[::-1]) for name, found in parts.items()}, events[::-1], whole)

    def _take(self, source: str, table: str, stream: _Stream, first: int, rows: Rows) -> None:
        """Append what of a batch is new; it begins at or before the next row."""
        new = rows[stream.next - first :]
        if not len(new):
            return
        self._stamp += 1
        kept = self._tables[table]
        kept.chunks.append(_Chunk(self._stamp, source, stream.next, new))
        kept.bytes += new.nbytes
        stream.next += len(new)
        stream.ranks = max(stream.ranks, int(new["rank"].max()) + 1 if source.startswith("world") else 1)
        stream.tail.append(new[-TAIL * stream.ranks :])
        stream.tail_rows += len(stream.tail[-1])
        while stream.tail_rows - len(stream.tail[0]) >= TAIL * stream.ranks:
            stream.tail_rows -= len(stream.tail.popleft())
        while kept.bytes > self._limit and len(kept.chunks) > 1:
            old = kept.chunks.popleft()
            kept.bytes -= old.rows.nbytes
            kept.forgotten = old.stamp

    def _advance(self, source: str, table: str, stream: _Stream) -> None:
        """Take what waited behind a hole that is filled now."""
        if stream.ahead:
            stream.ahead.sort(key=lambda batch: batch[0])
            while stream.ahead and stream.ahead[0][0] <= stream.next:
                self._take(source, table, stream, *stream.ahead.pop(0))


def _joined(table: str, parts: list[Rows]) -> Rows:
    return np.concatenate(parts) if parts else np.empty(0, TABLES[table])
