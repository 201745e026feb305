"""Exchanges that go on while the rank computes: on real ranks by its own polls and by one thread that sleeps between looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, final

from workbench.comm.base import ANY, Polled
from workbench.errors import Aborted

LOOK_SECONDS: Final = 200e-6
"""Between two looks of the thread: shorter ones take time from backward, longer ones leave the link idle."""

LINGER_SECONDS: Final = 1.0
"""So long the thread stays when nothing is under way; the next step will need it again."""


@final
class Followed:
    """Steps that are carried on whenever the requests that they have yielded are complete."""

    __slots__ = ("_lock", "_pending", "_progress", "_steps", "done", "error", "source")

    def __init__(self, progress: Progress, steps: Iterator[tuple[Any, ...]]) -> None:
        self._progress, self._steps = progress, steps
        self._pending: tuple[Polled, ...] = ()
        self._lock = threading.Lock()
        self.done = False
        self.error: BaseException | None = None
        self.source = ANY

    def __str__(self) -> str:
        return ", ".join(sorted({str(request) for request in self._pending if not request.done})) or "an exchange"

    def test(self) -> bool:
        """Carry on as far as possible; whether the end is reached. Raises what the steps have raised."""
        if not self.done:
            self.carry_on()
        if self.error is not None:
            raise self.error
        return self.done

    def carry_on(self) -> None:
        """Go on as far as possible, unless another thread does it just now. What goes wrong is kept for `test`."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            while not self.done and all([request.test() for request in self._pending]):  # noqa: C419 (all must progress)
                self._pending = next(self._steps)
        except StopIteration:
            self._progress.left(self)
        except BaseException as error:  # noqa: BLE001 (raised where somebody waits for it)
            self.error = error
            self._progress.left(self)
        finally:
            self._lock.release()


@final
class Progress:
    """What is under way behind a rank's back, and for how long while it did not wait.

    `aborted` is asked now and then; True ends everything with `Aborted`. `prepare` is called on the thread once.
    """

    def __init__(self, aborted: Callable[[], bool], prepare: Callable[[], None]) -> None:
        self._aborted, self._prepare = aborted, prepare
        self._under_way: list[Followed] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._hidden = 0.0
        self._since: float | None = None  # when hidden time began that is not in `_hidden` yet
        self._waits = False

    @property
    def hidden_seconds(self) -> float:
        """Time in which something was under way while the rank did not wait."""
        with self._changed:
            return self._hidden + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def follow(self, steps: Iterator[tuple[Any, ...]]) -> Followed:
        """Begin at once; the thread goes on with it."""
        followed = Followed(self, steps)
        with self._changed:
            self._under_way.append(followed)
            self._account()
        followed.carry_on()
        with self._changed:
            if self._under_way:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)
                    self._thread.start()
                self._changed.notify()
        return followed

    def left(self, followed: Followed) -> None:
        """It has come to its end."""
        with self._changed:
            followed.done = True
            if followed in self._under_way:
                self._under_way.remove(followed)
            self._account()

    def waits(self, waits: bool) -> None:
        """The rank begins to wait, and carries everything on itself, or ends it."""
        if self._under_way or self._waits:
            with self._changed:
                self._waits = waits
                self._account()
                self._changed.notify()

    def drop(self) -> None:
        """The run has failed: nobody will need what is under way."""
        if self._under_way:
            with self._changed:
                for followed in self._under_way:
                    followed.error, followed.done = followed.error or Aborted("the run has ended"), True
                self._under_way.clear()
                self._account()

    def _account(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self._hidden += now - self._since
        self._since = now if self._under_way and not self._waits else None

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                if not self._under_way or self._waits:
                    self._changed.wait(LINGER_SECONDS)
                if not self._under_way:
                    self._thread = None
                    return
                under_way = () if self._waits else tuple(self._under_way)
            for followed in under_way:
                followed.carry_on()
            if self._aborted():
                self.drop()
            if under_way:
                time.sleep(LOOK_SECONDS)
