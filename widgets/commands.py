"""What was asked for: done one after the other, off the threads of page and notebook, its words kept for the status line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from .lanes import Lane
from .words import duration


@final
class Commands:
    """Two lanes, so that a run can be steered while the cluster is asked for something. `done` is called after each command."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done_with_one = done
        self.cluster = Lane("cluster", self._done)
        self.run = Lane("run", self._done)
        self.error = ""
        """What went wrong last, in words; "" once something new was asked for."""
        self.failure: Exception | None = None
        """The first thing that went wrong since nothing was under way."""
        self._since = 0.0

    def put(self, lane: Lane, doing: str, act: Callable[[], object]) -> None:
        """Do it when the lane is free; returns at once."""
        if not self.busy:
            self.failure = None
        self.error, self._since = "", time.monotonic()
        lane.put(doing, act)

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self.cluster.busy or self.run.busy

    def words(self) -> str:
        """What is under way and for how long, "" for nothing."""
        doing = self.cluster.doing or self.run.doing
        return f"{doing} … {duration(time.monotonic() - self._since)}" if doing else ""

    def close(self) -> None:
        """End the lanes once what waits is done."""
        self.cluster.close()
        self.run.close()

    def _done(self, doing: str, failure: Exception | None) -> None:
        """On the lane's thread."""
        if failure is not None:
            self.failure = self.failure or failure
            # a ValueError says itself what was asked for
            self.error = str(failure) if isinstance(failure, ValueError) else f"{doing} failed: {failure}"
        self._done_with_one()
