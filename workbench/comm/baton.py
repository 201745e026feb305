"""Threads that pass a baton: ranks of one process, one of which runs at a time, in the order of a virtual clock.

A rank that cannot go on says when it can (`Baton.ready`) and gives the baton away (`Baton.block`); it goes to whoever
has the smallest clock, ties to the lowest rank, so that a run repeats exactly. Threads and not greenlets, because torch
keeps its grad mode and autocast per thread. Nothing here knows messages; see `virtual.py`.
"""

from __future__ import annotations

import _thread
import heapq
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from numpy import random as numpy_random

from workbench.errors import Aborted, Deadlock, PeerLost, WorkbenchError

T = TypeVar("T")
Pace = Literal["fast", "real"]

STACK_BYTES: Final = 4 << 20
"""Stack of a rank's thread; reserved, not used, until a deep backward needs it."""

SWITCH_SECONDS: Final = 0.05
"""One rank runs at a time anyway; other threads of the process (telemetry, commands) need not wait longer than this."""

NAP_SECONDS: Final = 0.02
"""How long the world sleeps before it looks again whether it was told to end."""

_HURRY_SECONDS: Final = 0.25
_EVENT: Final = -1


class Seat:
    """A rank's place in the world: its clock, its lock, and the random numbers that are its own."""

    __slots__ = ("clock", "done", "generator", "lock", "rank", "torch_state", "turn")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.clock = 0.0
        self.turn = 0  # goes up at every turn, so that what was scheduled for an earlier one is stale
        self.done = False
        self.lock = _thread.allocate_lock()
        self.lock.acquire()
        self.generator: Any = None
        self.torch_state: Any = None


class Baton:
    """Who runs next, and when. All methods but `run` are called by the rank that has the baton."""

    def __init__(self, size: int, *, aborted: Callable[[], bool], pace: Pace, describe: Callable[[int], str]) -> None:
        self.seats = [Seat(rank) for rank in range(size)]
        self.heap: list[tuple[float, int, int, Callable[[float], None] | None]] = []
        self.ended: Callable[[], WorkbenchError] | None = None
        """Once the world has ended: makes the exception that every verb of every rank raises."""
        self.failed_rank: int | None = None
        self._aborted, self._real, self._describe = aborted, pace == "real", describe
        self._count = 0
        self._failure: BaseException | None = None
        self._finished = threading.Event()
        self._origin = 0.0

    def run(self, body: Callable[[int], T]) -> list[T]:
        """`body(rank)` on every rank; the list of what they returned, or the first exception that left one of them."""
        results: list[Any] = [None] * len(self.seats)
        stack = threading.stack_size(STACK_BYTES)
        interval = sys.getswitchinterval()
        generator: Any = numpy_random.get_bit_generator()  # type: ignore[attr-defined]
        state, torch_state = generator.state, _torch_state()
        for seat in self.seats:
            seat.generator, seat.torch_state = type(generator)(0), torch_state
            seat.generator.state = state
            self.ready(seat, 0.0)
        threads = [threading.Thread(target=self._live, args=(seat, body, results), name=f"rank-{seat.rank:05d}", daemon=True) for seat in self.seats]
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            for thread in threads:
                thread.start()
            self._origin = time.monotonic()
            self._hand_over(None)
            try:
                self._finished.wait()
            except BaseException:  # Ctrl-C: the ranks end at their next verb
                self.ended = self.ended or (lambda: Aborted("interrupted"))
                self._finished.wait(10)
                raise
            for thread in threads:
                thread.join()
        finally:
            threading.stack_size(stack)
            sys.setswitchinterval(interval)
            numpy_random.set_bit_generator(generator)  # type: ignore[attr-defined]
            _set_torch_state(torch_state)
        if self._failure is not None:
            raise self._failure
        return results

    def ready(self, seat: Seat, when: float) -> None:
        """The rank can go on at `when`; the earliest time said counts."""
        heapq.heappush(self.heap, (when, seat.rank, seat.turn, None))

    def at(self, when: float, event: Callable[[float], None]) -> None:
        """Call `event(when)` once no rank that could do something earlier is left, before ranks of the same time."""
        self._count += 1
        heapq.heappush(self.heap, (when, _EVENT, self._count, event))

    def block(self, seat: Seat) -> None:
        """Give the baton away until the rank is ready and its turn has come. Raises what ended the world."""
        self._hand_over(seat)
        if self.ended is not None:
            raise self.ended()

    def let_earlier_go_first(self, seat: Seat) -> None:
        """Return once every other rank that can run has a clock that is not smaller: nothing earlier can be sent any more."""
        heap = self.heap
        if heap and heap[0][:2] < (seat.clock, seat.rank):
            self.ready(seat, seat.clock)
            self.block(seat)
        elif self._real:
            self._catch_up(seat.clock)

    def check(self) -> None:
        """Raise what ended the world, if it has ended or is told to end."""
        if self.told_to_end() and self.ended is not None:
            raise self.ended()

    def end(self, error: Callable[[], WorkbenchError]) -> None:
        """End the world: every rank that waits, or calls a verb from now on, gets `error()`."""
        if self.ended is None:
            self.ended = error

    def fail(self, rank: int, reason: str) -> None:
        """A rank has failed: the others get `PeerLost`."""
        if self.ended is None:
            self.failed_rank = rank
            self.ended = lambda: PeerLost(rank, reason)

    def coming(self, seat: Seat) -> set[int] | None:
        """The other ranks that go on by themselves some time, not waiting for anybody; None if an event is still to happen."""
        if any(event is not None for *_, event in self.heap):
            return None
        return {rank for _, rank, turn, _ in self.heap if turn == self.seats[rank].turn and not self.seats[rank].done} - {seat.rank}

    def _live(self, seat: Seat, body: Callable[[int], T], results: list[Any]) -> None:
        seat.lock.acquire()
        self._take_random(seat)
        try:
            results[seat.rank] = body(seat.rank)
        except BaseException as error:  # noqa: BLE001 (re-raised by run)
            if self.ended is None:
                error.add_note(f"on virtual rank {seat.rank}")
            self.fail(seat.rank, f"it ended with {type(error).__name__}: {error}")
            self._failure = self._failure or error
        seat.done = True
        self._hand_over(seat)

    def _hand_over(self, seat: Seat | None) -> None:
        """Wake the next rank; if that is another one, sleep until this rank's turn comes (or leave, if it is done)."""
        try:
            following = self._following()
        except BaseException as error:  # noqa: BLE001 (an event failed: that ends the world like a rank's error)
            self._failure = self._failure or error
            self.end(lambda: Aborted("the virtual world failed"))
            following = self._following()
        if following is seat and seat is not None and not seat.done:
            return
        if seat is not None and not seat.done:
            seat.torch_state = _torch_state()
        if following is None:
            self._finished.set()
        else:
            following.lock.release()
        if seat is not None and not seat.done:
            seat.lock.acquire()
            self._take_random(seat)

    def _following(self) -> Seat | None:
        """The rank whose turn it is, its clock set; the events that come before it have happened. None: all are done."""
        heap = self.heap
        while self.ended is None:
            if self.told_to_end():
                break
            if not heap:
                if all(seat.done for seat in self.seats):
                    return None
                self._end_in_deadlock()
                break
            when, rank, turn, event = heapq.heappop(heap)
            if event is not None:
                event(when)
                continue
            seat = self.seats[rank]
            if turn != seat.turn or seat.done:
                continue
            if self._real and not self._catch_up(when):
                continue
            seat.turn += 1
            if when > seat.clock:
                seat.clock = when
            return seat
        return next((seat for seat in self.seats if not seat.done), None)

    def told_to_end(self) -> bool:
        """Whether the world has ended, or was told to and so has now."""
        if self.ended is None and self._aborted():
            self.ended = lambda: Aborted("the run was told to end at once")
        return self.ended is not None

    def _catch_up(self, when: float) -> bool:
        """Sleep until real time has caught up with virtual time; False if the world was told to end meanwhile."""
        while True:
            ahead = when - (time.monotonic() - self._origin)
            if ahead <= 0:
                if ahead < -_HURRY_SECONDS:  # held up by a pause or by real work: go on from here, never hurry after it
                    self._origin -= ahead
                return True
            time.sleep(min(ahead, NAP_SECONDS))
            if self.told_to_end():
                return False

    def _end_in_deadlock(self) -> None:
        lines = [f"  rank {seat.rank}: {'has returned' if seat.done else self._describe(seat.rank)}" for seat in self.seats]
        # those that wait say more than those that have returned, when there are too many to list
        if len(lines) > 24:
            waiting = [line for line, seat in zip(lines, self.seats, strict=True) if not seat.done]
            returned = [line for line, seat in zip(lines, self.seats, strict=True) if seat.done]
            lines = [*waiting[:16], *returned[:8], f"  and {len(lines) - len(waiting[:16]) - len(returned[:8])} more ranks"]
        self.end(lambda: Deadlock("no rank can go on:\n" + "\n".join(lines)))

    @staticmethod
    def _take_random(seat: Seat) -> None:
        """NumPy's and torch's global generators are one per process: give the rank its own back (about 1 us)."""
        numpy_random.set_bit_generator(seat.generator)  # type: ignore[attr-defined]
        _set_torch_state(seat.torch_state)


def _torch_state() -> Any:
    torch = sys.modules.get("torch")
    return None if torch is None else torch.default_generator.get_state()


def _set_torch_state(state: Any) -> None:
    if state is not None:
        sys.modules["torch"].default_generator.set_state(state)
