"""A process group of torch.distributed for the ranks of one communicator: nothing global, nothing listens beyond what is needed.

What it blocks in, another thread does: the rank itself waits with its communicator only, so that an abort and a farewell end every wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, final

import numpy as np
import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from workbench.comm.base import ANY, Array, Communicator, Request
from workbench.errors import WorkbenchError

PATIENCE: Final = timedelta(hours=24)
"""Of the library with a peer that is there: a run may be paused. A peer that is gone closes its connections, which ends the wait."""

GRACE_SECONDS: Final = 1.0
"""So long after a failure of the library the communicator may still hear which rank it was."""

LONGEST: Final = 4000
"""Bytes of what a rank tells the others to be reached."""


class Waited:
    """A request for what another thread or library does."""

    lost = False

    def __init__(self, words: str) -> None:
        self.words = words
        self.done = False
        self.source = ANY
        self._failed: float | None = None

    def __str__(self) -> str:
        return self.words

    def grace(self, error: BaseException) -> bool:
        """False while the communicator may find out who it was; then the error of the library."""
        now = time.monotonic()
        self._failed = self._failed or now
        if now - self._failed < GRACE_SECONDS:
            return False
        raise WorkbenchError(f"{self.words} failed: {str(error).splitlines()[0]}") from error


@final
class Rendezvous(Store):
    """A store without a server: each rank sets one key and gets those of all others, which the communicator brings meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._given_up = False

    def set(self, key: str, value: bytes) -> None:  # type: ignore[override]  # bytes is what the library gives
        """On the thread of the library: what this rank tells, or what another has told."""
        with self._changed:
            self._known[key] = bytes(value)
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        """On the thread of the library: what a rank has told."""
        self.wait([key])
        return self._known[key]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """On the thread of the library: until these keys are there."""
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or all(key in self._known for key in keys))
            if self._given_up:
                raise RuntimeError("the rank has ended its run")

    def told(self) -> tuple[str, bytes] | None:
        """What this rank tells the others, once it is known."""
        with self._changed:
            return next(iter(self._known.items()), None)

    def give_up(self) -> None:
        """Nobody will tell anything any more."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()


@final
class Made(Waited):
    """A request for what `make()` returns on a thread of its own, or for what `early()` sees first."""

    def __init__(self, words: str, make: Callable[[], Any], early: Callable[[], Any]) -> None:
        super().__init__(words)
        self._make, self._early = make, early
        self.value: Any = None
        self.error: BaseException | None = None
        self._ended = False
        threading.Thread(target=self._run, name=words, daemon=True).start()

    def _run(self) -> None:
        try:
            self.value = self._make()
        except BaseException as error:  # noqa: BLE001 (raised where somebody waits for it)
            self.error = error
        self._ended = True

    def test(self) -> bool:
        """Whether it is made, or the early sight is there."""
        if self._ended and self.error is not None:
            return self.grace(self.error)
        self.done = self._ended or bool(self._early())
        return self.done


@final
class Reduced(Waited):
    """An all-reduce under way in the library."""

    def __init__(self, words: str, work: Any) -> None:
        super().__init__(words)
        self._work = work

    def test(self) -> bool:
        """Whether it is complete; what went wrong is raised after a grace."""
        if not self.done and self._work.is_completed():
            try:
                self._work.wait()  # complete: raises at once, or returns
            except RuntimeError as error:
                return self.grace(error)
            self.done = True
        return self.done


@final
class ProcessGroup:
    """The library's group of the ranks of `comm`, made by `make(store)`, and the all-reduces of one tensor in it."""

    def __init__(self, comm: Communicator, name: str, make: Callable[[Store], Any]) -> None:
        self._words = f"{name}'s all-reduce"
        self._work: Any = None
        store = Rendezvous()
        try:
            meeting = Made(f"{name} to begin", lambda: make(store), store.told)
            comm.wait(meeting)
            mine = store.told()
            assert mine is not None
            for key, value in _gathered(comm, *mine):
                store.set(key, value)
            meeting = _and_then(meeting)
            comm.wait(meeting)
        except BaseException:
            store.give_up()
            raise
        self._group = meeting.value

    def allreduce(self, tensor: torch.Tensor) -> Request:
        """Collective. Start summing `tensor` over all ranks, in place."""
        self._work = self._group.allreduce([tensor])
        return Reduced(self._words, self._work)

    def close(self) -> None:
        """Leave the group. An exchange under way keeps it (and its memory) until it ends: when all have come to it, or one has left."""
        group, work, self._group, self._work = self._group, self._work, None, None
        if group is not None and work is not None and not work.is_completed():
            threading.Thread(target=_let_end, args=([group, work],), name="an all-reduce that nobody awaits", daemon=True).start()

    def __del__(self) -> None:
        if getattr(self, "_group", None) is not None:
            self.close()


def _and_then(meeting: Made) -> Made:
    """The same request, from now on for its end."""
    meeting._early, meeting.done = bool, False
    return meeting


def _let_end(kept: list[Any]) -> None:
    """Leaving a group waits for what is under way in it, which is not for a rank to wait for."""
    while not kept[1].is_completed():
        time.sleep(0.05)
    kept.clear()


def _gathered(comm: Communicator, key: str, value: bytes) -> list[tuple[str, bytes]]:
    """Collective. What every rank tells, as (key, value)."""
    told = key.encode() + b"\0" + value
    if len(told) > LONGEST:
        raise WorkbenchError(f"a rank tells {len(told)} bytes to be reached, more than {LONGEST}")
    lengths: Array = np.zeros(comm.size, np.int64)
    everything: Array = np.zeros((comm.size, LONGEST), np.uint8)
    lengths[comm.rank] = len(told)
    everything[comm.rank, : len(told)] = np.frombuffer(told, np.uint8)
    aside = comm.channel(0, counted=False)
    aside.wait(aside.iallreduce(lengths), aside.iallreduce(everything))
    parts = [row[:length].tobytes().split(b"\0", 1) for row, length in zip(everything, lengths, strict=True)]
    return [(name.decode(), content) for name, content in parts]
