"""Messages between virtual ranks, and the receives that take them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from workbench.comm.base import ANY, Array

if TYPE_CHECKING:
    from workbench.comm.following import Followed
    from workbench.comm.node import Node


class Pending:
    """A request of a virtual rank. `time` is when it completes, once that is known; `done` once it was reported."""

    __slots__ = ("done", "error", "follower", "home", "source", "time", "waited")

    lost = False
    home: Node
    time: float | None
    done: bool
    waited: bool
    error: str | None
    source: int
    follower: Followed | None

    def known(self, when: float) -> None:
        """The request completes at `when`: tell the rank if it waits for this, and the steps that do."""
        self.time = when
        if self.follower is not None:
            self.follower.told(when)
            self.follower = None
        if self.waited or self.home.dozing:
            self.home.told(when)

    def __repr__(self) -> str:
        return "a collective"


class Message(Pending):
    """A message under way (the request of its sender)."""

    __slots__ = ("arrival", "buffer", "dest", "left", "nbytes", "number", "receive", "sender", "start", "tag", "where")

    start: float
    """When its first byte leaves."""
    left: float
    """When its last byte has left."""
    arrival: float | None
    """When its last byte is there; None until the order of arrivals is settled."""
    number: int

    def __init__(self, home: Node, buffer: Array, sender: int, dest: int, tag: int, where: str) -> None:
        self.home, self.buffer, self.sender, self.dest, self.tag, self.where = home, buffer, sender, dest, tag, where
        self.nbytes = buffer.nbytes
        self.time = self.arrival = self.error = self.follower = None
        self.done = self.waited = False
        self.source = ANY
        self.receive: Receive | None = None

    def __repr__(self) -> str:
        return f"isend to rank {self.dest} (tag {self.tag}{self.where}) that is not received"


class Receive(Pending):
    """A posted receive (the request of its receiver)."""

    __slots__ = ("asked", "buffer", "message", "order", "posted", "tag", "where")

    def __init__(self, home: Node, buffer: Array, asked: int, tag: int, posted: float, where: str) -> None:
        self.home, self.buffer, self.asked, self.tag, self.posted, self.where = home, buffer, asked, tag, posted, where
        self.time = self.error = self.follower = None
        self.done = self.waited = False
        self.source = asked
        self.message: Message | None = None
        self.order = 0

    def __repr__(self) -> str:
        whom = "any rank" if self.asked == ANY else f"rank {self.asked}"
        return f"irecv from {whom} (tag {self.tag}{self.where})"


class Lane:
    """What one rank sends to another under one tag: messages that no receive has taken, receives that have no message."""

    __slots__ = ("messages", "posted")

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self.posted: deque[Receive] = deque()


class Port:
    """All lanes of a rank under one tag of one channel, and the receives from ANY that listen to all of them."""

    __slots__ = ("anys", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[int, Lane] = {}
        self.anys: deque[Receive] = deque()

    def lane(self, source: int) -> Lane:
        """The lane of a source."""
        lane = self.lanes.get(source)
        if lane is None:
            lane = self.lanes[source] = Lane()
        return lane

    def first(self) -> Message | None:
        """The untaken message that reaches this port first."""
        return min((lane.messages[0] for lane in self.lanes.values() if lane.messages), key=_start, default=None)


def _start(message: Message) -> tuple[float, int]:
    return message.start, message.number
