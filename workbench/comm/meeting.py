"""Virtual ranks that do something all together: the members of a communicator and the collectives they are in."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.comm.base import ANY, Array, Op
from workbench.comm.mailbox import Pending, Port
from workbench.comm.node import Node


class Group:
    """The ranks of one communicator, the ports of each, and the collectives that some have entered and others not yet."""

    def __init__(self, world: list[Node], nodes: list[Node], ranks: list[int], where: str, parent: Group | None = None) -> None:
        self.world, self.nodes = world, nodes
        self.ranks = ranks
        """Position here -> rank in the world."""
        self.where = where
        self.inboxes: list[dict[int, Port]] = [{} for _ in nodes]
        # channels share the order of their collectives, as they do on MPI, where they are one communicator
        self.meetings: dict[int, Meeting] = {} if parent is None else parent.meetings
        self.turns: list[int] = [0] * len(nodes) if parent is None else parent.turns
        self.channels: dict[tuple[int, int], Group] = {}


class Meeting:
    """A collective on its way: who has entered, with what."""

    def __init__(self, group: Group, kind: str) -> None:
        self.group, self.kind = group, kind
        self.entered: dict[int, Entry] = {}


class Entry(Pending):
    """One rank's part in a collective."""

    __slots__ = ("entered", "given", "meeting", "result")

    def __init__(self, home: Node, meeting: Meeting, given: Any) -> None:
        self.home, self.meeting, self.given = home, meeting, given
        self.time = self.error = self.follower = None
        self.done = self.waited = False
        self.source = ANY
        self.entered = home.seat.clock
        self.result: Any = None

    def __repr__(self) -> str:
        group, entered = self.meeting.group, self.meeting.entered
        missing = [f"rank {rank}" for rank in range(len(group.nodes)) if rank not in entered]
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        return f"{self.meeting.kind.split(' ')[0]}{group.where.replace(', ', ' on ', 1)} that {listed} did not enter"


def combine(buffers: list[Array], op: Op) -> None:
    """Combine elementwise in the order of the ranks, so that all get the same bits; 16-bit floats are added up in float32."""
    ufunc = {"sum": np.add, "min": np.minimum, "max": np.maximum}[op]
    first = buffers[0]
    total = first.astype(np.float32) if first.dtype == np.float16 else first.copy()
    for buffer in buffers[1:]:
        ufunc(total, buffer.reshape(total.shape), out=total)
    for buffer in buffers:
        buffer[...] = total.reshape(buffer.shape)


def conclude(entries: list[Entry], seconds: float) -> None:
    """All have entered: everybody's part is complete `seconds` after the last did."""
    when = max(entry.entered for entry in entries)
    if seconds:  # the links are shared with what the ranks send themselves, and with the all-reduces before this one
        when = max(when, *(entry.home.tx_free for entry in entries)) + seconds
        for entry in entries:
            entry.home.tx_free = when
    for entry in entries:
        entry.known(when)
