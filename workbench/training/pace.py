"""How fast a rank does its own part of a step: as fast as it can, or slowed by a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from workbench.faults import Fault, Slow
from workbench.training.recorder import Recorder


@final
class Pace:
    """Marks for the recorder, which a slowed rank comes to later: each phase of its own work takes `factor` times as long.

    `wait` lets time pass, on the rank's own clock, and heeds an abort. What an exchange takes is left as it is. It is made when the
    first step begins, and records an event if there is a fault.
    """

    def __init__(self, faults: Sequence[Fault], recorder: Recorder, wait: Callable[[float], None]) -> None:
        self._recorder, self._wait = recorder, wait
        mine = [fault for fault in faults if fault.rank == recorder.rank]
        for fault in mine:
            recorder.event("fault", 0, message=fault.words)
        self._slow = next((fault for fault in mine if isinstance(fault, Slow)), None)
        self._owed = 0.0
        recorder.restart()
        self._since = recorder.seconds()

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent in `phase`."""
        if self._slow is None:
            self._recorder.mark(phase)
            return
        if phase != "exchange":
            self.hold()
        self._recorder.mark(phase)
        self._since = self._recorder.seconds()
        if phase == "load":  # seconds come first in compute, so that no bucket of gradients is early
            self._owed += self._slow.seconds
            self.hold()

    def hold(self) -> None:
        """What was done since the last mark, or the last time, has taken as long as it is to take. A wait that was too long shortens the next."""
        if self._slow is None:
            return
        now = self._recorder.seconds()
        self._owed += (self._slow.factor - 1) * (now - self._since)
        if self._owed > 0:
            self._wait(self._owed)
        self._since = self._recorder.seconds()
        self._owed -= self._since - now
