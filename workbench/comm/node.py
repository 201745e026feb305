"""A virtual rank's end of the network: which receive takes which message, and when it is there.

*Which*: messages from one rank with one tag on one channel are taken in order by the receives posted for them, as in
MPI. A receive from ANY rank takes the message that reaches the rank first, so it is decided only once nothing earlier
can be sent any more. *When*: the sender's messages leave one after the other (tx), those of a receiver arrive one after
the other in the order in which their first bytes reach it (rx). A rank whose posted receives all have their message
takes them at once; any other order of things is settled by events on the virtual clock.
"""

from __future__ import annotations

import heapq
from math import inf
from typing import Any

from workbench.comm.base import ANY, Beacon
from workbench.comm.baton import Baton, Seat
from workbench.comm.following import Following
from workbench.comm.mailbox import Message, Port, Receive
from workbench.comm.network import Network
from workbench.comm.polling import Polls


class Node:
    """A rank's end of the network: its links, what is on the way to it, what it waits for."""

    __slots__ = (
        "asleep", "baton", "beacon", "dozing", "following", "inbox", "latest", "listening", "look_at", "missing", "network", "number",
        "open", "order", "polls", "rx_free", "seat", "tx_free", "verb", "waiting", "waits_any",
    )  # fmt: skip

    def __init__(self, seat: Seat, baton: Baton, network: Network) -> None:
        self.seat, self.baton, self.network = seat, baton, network
        self.beacon = Beacon()
        self.tx_free = self.rx_free = 0.0
        self.inbox: list[tuple[float, int, Message]] = []  # on the way, rx not yet settled; by the time the first byte left
        self.open = 0  # posted receives that have no message
        self.order = self.number = 0
        self.listening: dict[Port, None] = {}  # ports with receives from ANY, in the order they were posted
        self.look_at: float | None = None
        self.waiting: tuple[Any, ...] = ()
        self.waits_any = self.dozing = self.asleep = False
        self.verb = ""
        self.missing = 0  # of those, the ones whose time is not known (1 while it waits for any of them)
        self.latest = 0.0
        self.polls = Polls(self)
        self.following = Following(self)

    # -- posting ---------------------------------------------------------------------------------------------------

    def send(self, message: Message, to: Node, port: Port) -> None:
        """Put a message on the link; it is taken at once where there is no choice."""
        now = self.seat.clock
        self.number += 1
        message.number = self.number * len(self.baton.seats) + self.seat.rank
        if to is self:  # within a rank nothing travels
            message.start = message.left = message.arrival = now
        else:
            start = self.tx_free if self.tx_free > now else now
            message.start = start
            message.left = self.tx_free = start + message.nbytes / self.network.bandwidth
            heapq.heappush(to.inbox, (start, message.number, message))
        lane = port.lane(message.sender)
        if lane.posted and (not port.anys or lane.posted[0].order < port.anys[0].order):
            to.open -= 1
            to.take(lane.posted.popleft(), message)
        else:
            lane.messages.append(message)
        if to.listening or to.missing or to.following.under_way:
            to.plan_look()

    def post(self, receive: Receive, port: Port) -> None:
        """Post a receive; it takes its message at once where there is no choice."""
        self.order += 1
        receive.order = self.order
        if receive.asked == ANY:
            port.anys.append(receive)
            self.listening[port] = None
            self.open += 1
            self.plan_look()
            return
        lane = port.lane(receive.asked)
        if lane.messages and not port.anys:
            self.take(receive, lane.messages.popleft())
        else:
            lane.posted.append(receive)
            self.open += 1

    def take(self, receive: Receive, message: Message) -> None:
        """The receive gets the message: its bytes now, its completion when the link has carried them."""
        receive.message = message
        receive.source = message.sender
        mine, theirs = receive.buffer, message.buffer
        if mine.dtype != theirs.dtype or mine.size < theirs.size:
            receive.error = (
                f"rank {receive.source} sent {theirs.size} {theirs.dtype.name} (tag {message.tag}{message.where}) "
                f"to rank {message.dest}, whose buffer holds {mine.size} {mine.dtype.name}"
            )
        elif mine.shape == theirs.shape:
            mine[...] = theirs
        else:
            mine.reshape(-1)[: theirs.size] = theirs.reshape(-1)
        message.known(max(receive.posted, message.left))
        if message.arrival is not None:
            receive.known(max(receive.posted, message.arrival))
            return
        message.receive = receive
        if self.missing and not self.waits_any and not self.open:
            self.settle(self.waiting)

    # -- time ------------------------------------------------------------------------------------------------------

    def settle(self, requests: tuple[Any, ...]) -> None:
        """Of a rank without open receives: what it waits for arrives in the order in which it was sent."""
        for request in requests:
            if request.time is None and type(request) is Receive and request.message is not None:
                while request.message.arrival is None:
                    self._arrive()

    def advance(self, until: float) -> None:
        """Nothing that starts before `until` can be sent any more: let it arrive, and let receives from ANY take it."""
        inbox = self.inbox
        while inbox and inbox[0][0] <= until:
            self._arrive()
        for port in tuple(self.listening):
            while port.anys:
                message = port.first()
                if message is None or message.start > until:
                    break
                lane = port.lanes[message.sender]
                lane.messages.popleft()
                self.open -= 1
                if lane.posted and lane.posted[0].order < port.anys[0].order:
                    self.take(lane.posted.popleft(), message)
                else:
                    self.take(port.anys.popleft(), message)
            if not port.anys:
                del self.listening[port]
                self._match_named(port)

    def _match_named(self, port: Port) -> None:
        for lane in port.lanes.values():
            while lane.posted and lane.messages:
                self.open -= 1
                self.take(lane.posted.popleft(), lane.messages.popleft())

    def _arrive(self) -> None:
        start, _, message = heapq.heappop(self.inbox)
        begin = start + self.network.latency
        if self.rx_free > begin:
            begin = self.rx_free
        message.arrival = self.rx_free = arrival = begin + message.nbytes / self.network.bandwidth
        receive = message.receive
        if receive is not None:
            message.receive = None  # no cycle is left for the garbage collector
            receive.known(arrival if arrival > receive.posted else receive.posted)
        elif self.dozing:
            self.told(arrival)

    def next_start(self) -> float | None:
        """When the first message on the way, whose arrival is not settled, was started."""
        return self.inbox[0][0] if self.inbox else None

    def plan_look(self) -> None:
        """See to it that `advance` is called when the next message on the way can be settled."""
        when = self.next_start()
        if self.listening:
            starts = [message.start for message in map(Port.first, self.listening) if message is not None]
            when = min([*starts, when] if when is not None else starts, default=None)
            if when is not None:
                when = max(when, min(port.anys[0].posted for port in self.listening))
        if when is None:
            return
        if self.look_at is None or when < self.look_at:
            self.look_at = when
            self.baton.at(when, self._look)

    def _look(self, when: float) -> None:
        if self.look_at == when:
            self.look_at = None
        self.advance(when)
        if self.listening or self.missing or self.following.under_way:
            self.plan_look()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def told(self, when: float) -> None:
        """One of the requests that the rank waits for completes at `when`."""
        if self.waits_any:
            self.baton.ready(self.seat, max(when, self.seat.clock))
            return
        self.missing -= 1
        if when > self.latest:
            self.latest = when
        if not self.missing:
            self.baton.ready(self.seat, self.latest)

    def wait_all(self, requests: tuple[Any, ...]) -> None:
        """Block until all requests are complete; the clock is then at the latest of them."""
        if self.following.under_way and self.following.wait(requests):
            return
        if not self.open:
            self.settle(requests)
        latest, missing = self.seat.clock, 0
        for request in requests:
            if request.time is None:
                if not request.waited:
                    request.waited = True
                    missing += 1
            elif request.time > latest:
                latest = request.time
        if missing:
            self.waits_any, self.latest = False, latest
            self._block(requests, missing, "wait")
        else:
            self.seat.clock = latest

    def wait_any(self, requests: tuple[Any, ...], end: float) -> int:
        """Block until the first of the requests is complete, or until the end, which may be infinite; its index, or -1."""
        seat = self.seat
        while True:
            self.baton.let_earlier_go_first(seat)
            self.advance(seat.clock)
            self.following.carry_on()
            first = min(((request.time, index) for index, request in enumerate(requests) if request.time is not None), default=None)
            if first is not None and first[0] <= seat.clock:
                return first[1]
            if seat.clock >= end:
                return -1
            for request in requests:
                request.waited = request.time is None
            until = end if first is None else min(first[0], end)
            self.wait_some(requests, "wait_any", until if until < inf else None)

    def wait_some(self, requests: tuple[Any, ...], verb: str, until: float | None) -> None:
        """Block until one of the requests that are waited for completes, until then, or until what is followed can go on."""
        for when in (until, self.following.due):
            if when is not None:
                self.baton.ready(self.seat, when)
        self.waits_any = True
        self._block(requests, 1, verb)

    def doze(self, until: float) -> None:
        """Let time pass until something comes for this rank, or until then: between two polls."""
        self.waits_any, self.missing, self.dozing = True, 1, True
        try:
            self.sleep(until)
        finally:
            self.missing, self.dozing = 0, False

    def sleep(self, until: float) -> None:
        """Let time pass until then, or until what is followed can go on."""
        due = self.following.due
        self.baton.ready(self.seat, until if due is None or due > until else due)
        self._give_way()

    def expect(self, when: float) -> None:
        """What is followed can go on at `when`: end the rank's sleep then."""
        if self.asleep:
            self.baton.ready(self.seat, max(when, self.seat.clock))

    def _give_way(self) -> None:
        if self.inbox or self.listening:
            self.plan_look()
        self.asleep = True
        try:
            self.baton.block(self.seat)
        finally:
            self.asleep = False

    def _block(self, requests: tuple[Any, ...], missing: int, verb: str) -> None:
        self.waiting, self.missing, self.verb = requests, missing, verb
        self.beacon.since = self.seat.clock
        for request in requests:
            if request.time is None:
                self.beacon.waiting = (request,)
                break
        try:
            self._give_way()
        finally:
            self.waiting, self.missing = (), 0
            self.beacon.waiting = ()
            for request in requests:
                request.waited = False

    def describe(self) -> str:
        """What the rank waits for, in words."""
        texts = list(dict.fromkeys(repr(request) for request in self.waiting if request.time is None))
        return f"{self.verb}({'; '.join(texts[:4])}{f'; and {len(texts) - 4} more' if len(texts) > 4 else ''})"
