"""How a run is steered: commands come in on another thread, and take effect at the boundary between two steps."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from workbench.comm.base import Communicator, Request
from workbench.errors import Aborted
from workbench.job import CHANGEABLE
from workbench.training.recorder import Recorder

HOLD_SECONDS: Final = 0.02
"""Between two looks of a rank that is held, at the latest."""
SHORTEST_HOLD: Final = 0.0005


@dataclass(frozen=True)
class Command:
    """A numbered order: pause, resume, step, change or stop, with its options."""

    number: int
    verb: str
    options: dict[str, Any]


@final
class Inbox:
    """Commands of one rank (or, on virtual ranks, of all) in the order of their numbers. Thread-safe."""

    def __init__(self) -> None:
        self._commands: list[Command] = []
        self._changed = threading.Condition()
        self.newest = 0
        self.aborted = False

    def put(self, number: int, verb: str, options: dict[str, Any] | None = None) -> None:
        """Take in a command; "abort" takes effect at once, without an agreement. A number that was seen is passed over."""
        with self._changed:
            if verb == "abort":
                self.aborted = True
            elif number > self.newest:
                self._commands.append(Command(number, verb, dict(options or {})))
                self.newest = number
            self._changed.notify_all()

    def between(self, after: int, upto: int) -> list[Command]:
        """The commands with after < number <= upto."""
        with self._changed:
            return [command for command in self._commands if after < command.number <= upto]

    def wait(self, newer_than: int, seconds: float) -> bool:
        """Until a command newer than that has come, or an abort; False after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.aborted or self.newest > newer_than, seconds)

    def sleep(self, seconds: float) -> None:
        """Let time pass; `Aborted` as soon as the run is told to end."""
        with self._changed:
            if self._changed.wait_for(lambda: self.aborted, min(seconds, threading.TIMEOUT_MAX)):
                raise Aborted("the run was told to end at once, while a fault made this rank wait")


@final
class Control:
    """One rank's obedience. Ranks in lockstep apply a command at the same step, the others on arrival.

    The agreement is the smallest of the newest numbers that the ranks have seen. It is started at the boundary before
    a step and read at the next one at which the ranks meet, so that it travels while they compute. At most one is under
    way; it is started only at steps where all ranks meet (`step % period == 0`) or while all are held in a pause, so
    every rank starts and reads the same ones in the same order.
    """

    def __init__(self, inbox: Inbox, comm: Communicator, lockstep: bool, period: int, recorder: Recorder, optimizer: Any, rate: float) -> None:
        self.inbox, self.comm, self.recorder, self.optimizer = inbox, comm, recorder, optimizer
        self.lockstep, self.period = lockstep, period
        self.learning_rate = rate
        self.paused = self.stopping = False
        self._pause_at = -1
        self._applied = 0
        self._number = np.zeros(1, np.int64)
        self._agreeing: Request | None = None

    def go_on(self, step: int) -> bool:
        """Whether step `step` is to be done; applies what was commanded, and waits while the run is paused."""
        if self.inbox.aborted:
            raise Aborted("the run was told to end at once")
        if not self.lockstep:
            self._apply(self.inbox.newest, step)
        elif step % self.period == 0:
            self._read(step)
            if not self.stopping:
                self._agree()
        if step == self._pause_at:
            self.paused = True
            self.recorder.event("pause", step, command=self._applied)
        if self.paused:
            self._hold(step)
        return not self.stopping

    def heed(self, step: int) -> None:
        """Of a server, which goes on until its workers are done: take over what was changed."""
        if self.inbox.newest > self._applied:
            for command in self.inbox.between(self._applied, self.inbox.newest):
                self._applied = command.number
                self.stopping = self.stopping or command.verb == "stop"
                if command.verb == "change":
                    self._change(command.options)
                    self.recorder.event("change", step, command=command.number, **command.options)

    def close(self) -> None:
        """Collective where ranks are in lockstep. Take in the last agreement, so that no message is left."""
        if self._agreeing is not None:
            self.comm.wait(self._agreeing)
            self._agreeing = None

    def _agree(self) -> None:
        self._number[0] = self.inbox.newest
        self._agreeing = self.comm.iallreduce(self._number, "min")

    def _read(self, step: int) -> None:
        if self._agreeing is not None:
            self.comm.wait(self._agreeing)
            self._agreeing = None
            self._apply(int(self._number[0]), step)

    def _hold(self, step: int) -> None:
        """Wait for a command that ends the pause. Sleeps; talks to the other ranks only when a command has come."""
        self.close()  # an older agreement may be under way
        patience = SHORTEST_HOLD
        while self.paused and not self.stopping:
            if not self.inbox.wait(self._applied, patience):
                self.comm.compute(HOLD_SECONDS)  # virtual time goes on, so that ranks behind this one come to their pause too
                patience = min(2 * patience, HOLD_SECONDS)  # of hundreds of virtual ranks, one after the other waits so long
                continue
            if self.inbox.aborted:
                raise Aborted("the run was told to end at once, while paused")
            if self.lockstep:
                self._agree()
                self._read(step)
            else:
                self._apply(self.inbox.newest, step)
        if self.lockstep and not self.stopping and step % self.period == 0:
            self._agree()
        self.recorder.restart()

    def _apply(self, upto: int, step: int) -> None:
        for command in self.inbox.between(self._applied, upto):
            self._applied = command.number
            match command.verb:
                case "pause":
                    self.paused, self._pause_at = True, -1
                case "resume":
                    self.paused, self._pause_at = False, -1
                case "step":
                    self.paused, self._pause_at = False, step + int(command.options["count"])
                case "stop":
                    self.stopping = True
                case "change":
                    self._change(command.options)
            self.recorder.event(command.verb if command.verb != "step" else "resume", step, command=command.number, **command.options)

    def _change(self, options: dict[str, Any]) -> None:
        for name, value in options.items():
            if name == "learning_rate":
                self.learning_rate = float(value)
            elif name in CHANGEABLE:
                setattr(self.optimizer, name, float(value))
