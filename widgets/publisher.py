"""The thread that keeps a panel up to date. A task of the kernel's loop would stand still while a cell runs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol

log = logging.getLogger(__name__)

PERIODS: Final = {"looking": 0.2, "hidden": 1.0, "late": 1.0, "silent": 5.0, "nobody": 1.0}
"""Seconds between two ticks, by who looks: 5 Hz are enough for the eye and leave the kernel to the user."""
IDLE: Final = 0.5
"""Seconds between two ticks when nothing moves."""
SHARE: Final = 0.2
"""Share of its time that the thread may work: after a slow tick it rests longer instead of falling behind."""


class Panel(Protocol):
    """What the publisher keeps up to date."""

    def tick(self) -> float:
        """Show what has changed; returns in how many seconds the next tick is wanted."""
        ...

    def failed(self, error: Exception) -> None:
        """Show in words that a tick failed."""
        ...


class Publisher:
    """One daemon thread for one panel. Ticks that are missed are dropped, never queued, and one that fails does not end it."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="workbench-publisher", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def wake(self) -> None:
        """Tick now; any number of calls before the tick are one."""
        self._wake.set()

    def close(self) -> None:
        """End, and wait for a tick that is on; may be called from the tick itself."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            began = time.perf_counter()
            try:
                period = self._panel.tick()
            except Exception as error:
                log.exception("a tick of the panel failed")
                period = 1.0
                try:
                    self._panel.failed(error)
                except Exception:
                    log.exception("the panel could not show its error")
            if self._closed:
                return
            self._wake.wait(max(period, (time.perf_counter() - began) / SHARE))
