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

    __slots__ = ("_pending", "_progress", "_steps", "_turn", "done", "error", "source")

    lost = False

    def __init__(self, progress: Progress, steps: Iterator[tuple[Any, ...]]) -> None:
        self._progress, self._steps = progress, steps
        self._pending: tuple[Polled, ...] = ()
        self._turn = threading.Lock()
        self._turn.acquire()  # until it has begun: no other thread may do that
        self.done = False
        self.error: BaseException | None = None
        self.source = ANY

    def __str__(self) -> str:
        return ", ".join(sorted({str(request) for request in self._pending if not request.done})) or "an exchange"

    @property
    def pending(self) -> tuple[Polled, ...]:
        """What must be complete before it goes on."""
        return self._pending

    def test(self) -> bool:
        """Carry on as far as possible; whether the end is reached. Raises what the steps have raised."""
        if not self.done:
            self.carry_on()
        if self.done and self.error is not None:
            raise self.error
        return self.done

    def begin(self) -> None:
        """The first steps, by the thread that has made this and holds it."""
        try:
            self._go_on()
        finally:
            self._turn.release()

    def carry_on(self) -> None:
        """Go on as far as possible, unless another thread does just now: nobody waits for the other. What goes wrong is kept for `test`."""
        if self._turn.acquire(blocking=False):
            try:
                self._go_on()
            finally:
                self._turn.release()

    def _go_on(self) -> None:
        try:
            while not self.done and all([request.test() for request in self._pending]):  # noqa: C419 (all must progress)
                self._pending = next(self._steps)
        except StopIteration:
            self._progress.left(self)
        except BaseException as error:  # noqa: BLE001 (raised where somebody waits for it)
            self._progress.left(self, error)


@final
class Progress:
    """What is under way behind a rank's back, and for how long while the rank neither waited nor worked for it.

    `aborted` is asked now and then; True ends everything with `Aborted`. `prepare` is called on the thread once. The thread
    is there only while something is under way (and a little longer), and leaves the work to a rank that waits or polls.
    """

    def __init__(self, aborted: Callable[[], bool], prepare: Callable[[], None]) -> None:
        self._aborted, self._prepare = aborted, prepare
        self._under_way: list[Followed] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.nap: Callable[[tuple[Any, ...]], float] = lambda under_way: LOOK_SECONDS  # an emulated link knows when to look again
        self._hidden = 0.0
        self._since: float | None = None  # when hidden time began that is not in `_hidden` yet
        self._waits = False
        self._ended = False

    @property
    def hidden_seconds(self) -> float:
        """Time in which something was under way while the rank neither waited nor worked for it: began it, polled."""
        with self._changed:
            return self._hidden + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @property
    def under_way(self) -> tuple[Followed, ...]:
        """What is followed just now."""
        return tuple(self._under_way)

    def follow(self, steps: Iterator[tuple[Any, ...]]) -> Followed:
        """Begin at once, on the thread that calls: collectives are begun in the order of the calls. The thread goes on with it."""
        followed = Followed(self, steps)
        with self._changed:
            if self._ended:
                raise Aborted("the run has ended")
            self._under_way.append(followed)
        self.waits(True)  # what it does for it itself is not hidden
        try:
            followed.begin()
        finally:
            self.waits(False)
        with self._changed:
            if self._under_way:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)
                    self._thread.start()
                self._changed.notify()
        return followed

    def carry_on(self, besides: tuple[Any, ...] = ()) -> None:
        """On a rank that polls anyway: everything goes on as far as possible, besides what the rank asks itself."""
        if self._under_way:
            for followed in tuple(self._under_way):
                if followed not in besides:
                    followed.carry_on()

    def left(self, followed: Followed, error: BaseException | None = None) -> None:
        """It has come to its end, or to that error."""
        with self._changed:
            if not followed.done:
                followed.error, followed.done = error, True
                self._under_way.remove(followed)
                self._account()

    def waits(self, waits: bool) -> None:
        """The rank begins to wait or to work for what is under way, and carries everything on itself, or ends it."""
        if self._under_way or self._waits:
            with self._changed:
                self._waits = waits
                self._account()
                if self._under_way:  # otherwise the thread lingers
                    self._changed.notify()

    def drop(self, error: BaseException | None = None) -> None:
        """The run has failed: nobody will need what is under way, and nothing is begun any more. The thread ends at once."""
        with self._changed:
            self._ended = True
            for followed in self._under_way:
                followed.error, followed.done = error or Aborted("the run has ended"), True
            self._under_way.clear()
            self._account()
            self._changed.notify()

    def _account(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self._hidden += now - self._since
        self._since = now if self._under_way and not self._waits else None

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                if not self._ended and (not self._under_way or self._waits):
                    self._changed.wait(LINGER_SECONDS)
                if not self._under_way:
                    self._thread = None
                    return
                under_way = () if self._waits else tuple(self._under_way)
            for followed in under_way:
                followed.carry_on()
            if self._aborted():
                self.drop(Aborted("the run was told to end at once"))
            if under_way:
                time.sleep(self.nap(under_way))
