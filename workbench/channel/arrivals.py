"""What ranks have pushed, handed on in order on one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, final

from workbench.channel.listeners import Listeners
from workbench.channel.messages import Rows

OnRows = Callable[[str, str, int, Rows], None]
OnEvent = Callable[[dict[str, Any]], None]
Missed = Callable[[int, int], list[dict[str, Any]]]
"""(rank, number) -> the events of the rank from that number on."""


@final
class Arrivals:
    """Hands rows and events to whoever has subscribed, on its own thread.

    Events come per rank in order and without a gap: `missed` is asked for what lies between. Rows are handed on as they
    come; who subscribes sees from their numbers what to pull.
    """

    def __init__(self, name: str, missed: Missed) -> None:
        self._missed = missed
        self._on_rows: Listeners[OnRows] = Listeners()
        self._on_events: Listeners[OnEvent] = Listeners()
        self._rows: dict[tuple[str, str], int] = {}
        self._events: dict[int, int] = {}
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._hand_on, name=f"feed of {name}", daemon=True).start()

    def subscribe(self, callback: OnRows) -> Callable[[], None]:
        """Have `callback(source, table, first, rows)` called for what arrives from now on. Returns the way to end that."""
        return self._on_rows.add(callback)

    def subscribe_events(self, callback: OnEvent) -> Callable[[], None]:
        """Have `callback(event)` called for what happens from now on. Returns the way to end that."""
        return self._on_events.add(callback)

    def rows(self, source: str, table: str, first: int, rows: Rows) -> None:
        """Rows have arrived. From any thread."""
        self._queue.put(lambda: self._hand_rows(source, table, first, rows))

    def event(self, rank: int, event: dict[str, Any]) -> None:
        """An event has arrived. From any thread."""
        self._queue.put(lambda: self._hand_event(rank, event))

    def known(self, rank: int, events: int) -> None:
        """A rank says how many events it has; those that did not arrive are asked for. From any thread."""
        if events > self._events.get(rank, 0):
            self._queue.put(lambda: self._catch_up(rank, events))

    def following(self, source: str, table: str) -> int:
        """Number of the row behind the last one that was handed on."""
        return self._rows.get((source, table), 0)

    def drain(self, timeout: float) -> bool:
        """Until all that has arrived so far has been handed on; False after `timeout` seconds."""
        done = threading.Event()
        self._queue.put(done.set)
        return done.wait(timeout)

    def close(self) -> None:
        """Hand on what is there, then end the thread."""
        self._queue.put(None)

    def _hand_on(self) -> None:
        while (hand := self._queue.get()) is not None:
            hand()

    def _hand_rows(self, source: str, table: str, first: int, rows: Rows) -> None:
        key = (source, table)
        self._rows[key] = max(self._rows.get(key, 0), first + len(rows))
        for callback in self._on_rows:
            callback(source, table, first, rows)

    def _hand_event(self, rank: int, event: dict[str, Any]) -> None:
        expected = self._events.get(rank, 0)
        if event["number"] > expected:
            self._catch_up(rank, event["number"] + 1)
        elif event["number"] == expected:
            self._events[rank] = expected + 1
            for callback in self._on_events:
                callback(event)

    def _catch_up(self, rank: int, upto: int) -> None:
        since = self._events.get(rank, 0)
        for event in self._missed(rank, since) if since < upto else ():
            if event["number"] == self._events.get(rank, 0):
                self._hand_event(rank, event)
