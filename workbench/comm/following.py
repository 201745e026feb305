"""What goes on behind a virtual rank's back: steps that are carried on at the virtual times at which their requests complete.

A rank's clock moves only where the rank computes, waits or polls. There it stops at each of these times, the steps go on (and may post
messages at that time), and it goes on computing or waiting; so nothing that is followed is late, and runs repeat exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, final

from workbench.comm.base import ANY
from workbench.comm.mailbox import Pending

if TYPE_CHECKING:
    from workbench.comm.node import Node


@final
class Followed(Pending):
    """Steps under way. `report` is told the requests that are complete, before the steps go on."""

    __slots__ = ("_latest", "_missing", "_pending", "_report", "_steps", "due", "failure")

    def __init__(self, home: Node, steps: Iterator[tuple[Any, ...]], report: Callable[[tuple[Any, ...]], None]) -> None:
        self.home, self._steps, self._report = home, steps, report
        self.time = self.error = self.follower = None
        self.done = self.waited = False
        self.source = ANY
        self.failure: BaseException | None = None
        """What the steps have raised; whoever waits for them gets it."""
        self.due: float | None = home.seat.clock
        """When the steps can go on; None while that is not known, and after the end."""
        self._pending: tuple[Any, ...] = ()
        self._missing, self._latest = 0, self.due

    def told(self, when: float) -> None:
        """One of the requests that the steps have yielded completes at `when`."""
        self._missing -= 1
        self._latest = max(self._latest, when)
        if not self._missing:
            self.due = self._latest
            self.home.expect(self.due)

    def carry_on(self) -> None:
        """Go on as far as the rank's clock allows. What goes wrong is kept for whoever waits."""
        clock = self.home.seat.clock
        try:
            while self.due is not None and self.due <= clock:
                self._report(self._pending)
                self._expect(next(self._steps), clock)
        except StopIteration:
            self._end(clock)
        except Exception as error:  # noqa: BLE001 (raised where somebody waits for it)
            self.failure = error
            self._end(clock)

    def _expect(self, requests: tuple[Any, ...], clock: float) -> None:
        self._pending, self._latest, self._missing = requests, clock, 0
        for request in requests:
            if request.time is None:
                request.follower = self
                self._missing += 1
            else:
                self._latest = max(self._latest, request.time)
        self.due = None if self._missing else self._latest

    def _end(self, clock: float) -> None:
        self.due = None
        self.home.following.under_way.remove(self)
        self.known(clock)
        self.done = True  # on real ranks too: whoever waits is told what went wrong

    def __repr__(self) -> str:
        texts = dict.fromkeys(repr(request) for request in self._pending if request.time is None)
        return ", ".join(texts) or "an exchange under way"


@final
class Following:
    """All that a rank follows, in the order in which it began."""

    __slots__ = ("hidden_seconds", "node", "under_way")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.under_way: list[Followed] = []
        self.hidden_seconds = 0.0
        """Virtual time in which something was under way while the rank computed."""

    def begin(self, followed: Followed) -> None:
        """Begin at once."""
        self.under_way.append(followed)
        followed.carry_on()

    @property
    def due(self) -> float | None:
        """When the first of them can go on."""
        return min((followed.due for followed in self.under_way if followed.due is not None), default=None)

    def carry_on(self) -> None:
        """Everything that can go on at the rank's clock does."""
        clock = self.node.seat.clock
        while ready := [followed for followed in self.under_way if followed.due is not None and followed.due <= clock]:
            for followed in ready:
                followed.carry_on()

    def compute(self, until: float) -> None:
        """The rank works until then; what is under way goes on meanwhile."""
        seat = self.node.seat
        self.carry_on()
        while self.under_way and seat.clock < until:
            began = seat.clock
            self.node.sleep(until)
            self.hidden_seconds += seat.clock - began
            self.carry_on()
        seat.clock = max(seat.clock, until)

    def wait(self, requests: tuple[Any, ...]) -> bool:
        """Let the rank wait for all requests, or until nothing is under way any more; whether all are complete."""
        node, clock = self.node, self.node.seat
        while True:
            self.carry_on()
            if not self.under_way:
                return False
            unknown = [request for request in requests if request.time is None]
            latest = max((request.time for request in requests if request.time is not None), default=0.0)
            if not unknown and latest <= clock.clock:
                return True
            for request in unknown:
                request.waited = type(request) is not Followed  # of those it is this rank that finds out
            node.wait_some(requests, "wait", None if unknown else latest)
