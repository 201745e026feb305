"""What a rank tells the notebook unasked, in as few messages as possible: each costs a client more than its rows do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from workbench.channel.messages import Rows, pack

Send = Callable[[dict[str, Any], list[bytes]], None]
"""Sends a message: its content and the rows of its tables."""


@final
class Outbox:
    """Pushes of one run. Steps go at once, and what has gathered in the other tables goes with them. From any thread."""

    def __init__(self, run: str, send: Send) -> None:
        self._run, self._send = run, send
        self._waiting: list[tuple[str, str, int, Rows]] = []
        self._lock = threading.Lock()

    def rows(self, source: str, table: str, first: int, rows: Rows) -> None:
        """Rows of a source, numbered from `first` on."""
        with self._lock:
            self._waiting.append((source, table, first, rows))
            if table == "steps":
                self._flush()

    def say(self, kind: str, **content: Any) -> None:
        """Something else than rows: an event, a beacon, the outcome. It goes behind all rows so far."""
        with self._lock:
            self._flush()
            self._send({"kind": kind, "run": self._run, **content}, [])

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            batches = [(source, table, first) for source, table, first, _ in waiting]
            self._send({"kind": "rows", "run": self._run, "batches": batches}, [pack(rows) for *_, rows in waiting])
