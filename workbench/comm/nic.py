"""A rank's end of an emulated network: when its messages leave and arrive, and whether that is kept."""

from __future__ import annotations

import heapq
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Final, final

from mpi4py import MPI

from workbench.comm.base import ANY, Array
from workbench.comm.mpi_request import MpiRequest, keep
from workbench.comm.network import Network

if TYPE_CHECKING:
    from workbench.comm.link import LinkedCommunicator

ENOUGH: Final = 200  # messages that were waited for, before it is said that they come late
LATE: Final = 0.1  # of the time that they should take
REMEMBERED: Final = 1000  # messages: what is taken in so late that as many have come since had the port for itself
ROUNDING: Final = 1e-9  # seconds: of sums of clock readings


@final
class Arrival:
    """A message whose header has come: when its first byte does, and, once that has, when all of it is there."""

    __slots__ = ("begins", "due", "nbytes", "number", "seconds", "source")

    def __init__(self, header: Array, bandwidth: float, myself: int) -> None:
        told, self.nbytes, self.number, self.source = float(header[0]), int(header[1]), int(header[2]), int(header[3])
        own = self.source == myself
        self.seconds = 0.0 if own else self.nbytes / bandwidth
        """For which it takes the port."""
        self.begins = told - self.seconds
        self.due: float | None = told if own else None


@final
class Nic:
    """A rank's end of the emulated network, shared by all its communicators: until when its port is taken, each way."""

    def __init__(self, network: Network, report: Callable[[str], None]) -> None:
        self.network, self._report = network, report
        self.lock = threading.Lock()
        self.tx_free = 0.0
        self.taken: list[tuple[float, float]] = []
        """When the port has been taken, or will be, by what arrives: from, until."""
        self.expected: list[LinkedReceive] = []
        """Receives, in the order in which they were posted, whose header has not come yet."""
        self.arriving: list[tuple[float, int, Arrival]] = []
        """Announced messages by when their first byte comes: a heap."""
        self.found: dict[int, list[Arrival]] = {}
        """Tag -> announced messages that no receive has taken yet."""
        self.number = 0
        self._late = self._due = 0.0
        self._messages = 0

    def send(self, nbytes: int) -> tuple[float, float]:
        """When a message that is sent now has left, and when it arrives."""
        with self.lock:
            self.tx_free = max(time.perf_counter(), self.tx_free) + nbytes / self.network.bandwidth
            return self.tx_free, self.tx_free + self.network.latency

    @property
    def rx_free(self) -> float:
        """From when on nothing arrives any more."""
        return self.taken[-1][1] if self.taken else 0.0

    def meet(self, latest: float, nbytes: int, size: int) -> float:
        """When an all-reduce is through that the last rank has entered at `latest`: after a ring's time, one all-reduce after the other."""
        with self.lock:
            begin = max(latest, self.tx_free, self.rx_free)
            self.tx_free = begin + 2 * (size - 1) / size * nbytes / self.network.bandwidth
            self.taken.append((begin, self.tx_free))
            return begin + self.network.ring_seconds(nbytes, size)

    def take_in(self) -> None:
        """See which headers have come, and have the contents follow: of all receives, since a peer may wait to get rid of any."""
        with self.lock:
            if self.expected and self.expected[0].owner.outlives:
                self.expected = [receive for receive in self.expected if not receive.owner.heard(receive)]
            elif self.expected and (come := MPI.Request.Testsome([receive.handle for receive in self.expected])):
                for index in come:
                    receive = self.expected[index]
                    receive.announced(self.announce(receive.header, receive.owner.myself))
                self.expected = [receive for receive in self.expected if receive.content is None]

    def announce(self, header: Array, myself: int) -> Arrival:
        """Queue a message for the port. The caller holds the lock."""
        arrival = Arrival(header, self.network.bandwidth, myself)
        if arrival.due is None:
            heapq.heappush(self.arriving, (arrival.begins, id(arrival), arrival))
        return arrival

    def settle(self, now: float) -> None:
        """Let arrive what has begun to, in the order in which it did."""
        with self.lock:
            while self.arriving and self.arriving[0][0] <= now:
                arrival = heapq.heappop(self.arriving)[2]
                arrival.due = self._take(arrival.begins, arrival.seconds)

    def _take(self, begins: float, seconds: float) -> float:
        """Take the port for so long, as soon as it is free; until when. What is asked for late has arrived before what came later."""
        taken = self.taken
        index = bisect_right(taken, begins, key=itemgetter(1))
        while index < len(taken) and taken[index][0] - begins < max(seconds - ROUNDING, ROUNDING):
            begins = taken[index][1]
            index += 1
        taken.insert(index, (begins, begins + seconds))
        del taken[:-REMEMBERED]
        return begins + seconds

    def note(self, late: float, seconds: float) -> None:
        """A message that was waited for, and should take `seconds`, has come `late` seconds late."""
        self._late, self._due, self._messages = self._late + late, self._due + seconds, self._messages + 1
        if self._messages % ENOUGH == 0 and self._late > LATE * self._due:
            self._report(
                f"this machine cannot keep up with the link that it emulates ({self.network.words}): messages that were waited for "
                f"took {self._late / self._due:.0%} longer than they should; take fewer ranks, a slower network or a larger model"
            )
            self._report = lambda words: None


class LinkedRequest:
    """Something that is complete once it has moved and its time has come. With its content goes a `header`, under a `handle` of its own."""

    __slots__ = ("content", "done", "due", "handle", "header", "lost", "owner", "seconds")

    def __init__(self, owner: LinkedCommunicator, content: MpiRequest | None, due: float | None, header: Array, handle: MPI.Request) -> None:
        self.owner, self.content, self.due = owner, content, due
        self.done = self.lost = False
        self.header, self.handle = header, handle
        self.seconds = 0.0
        """What it takes on the link; 0 where nobody waits for it to arrive."""

    def __del__(self) -> None:
        if self.handle:
            keep(self.handle, self.header)

    def __str__(self) -> str:
        return str(self.content)

    @property
    def source(self) -> int:
        """Of a completed receive: the rank that sent the message."""
        return self.content.source if self.content is not None else ANY

    @property
    def wakes(self) -> float | None:
        """When its time comes, or is known; None while it has not moved, for which it must be polled."""
        return self.due if self.content is not None and self.content.done else None

    def moved(self) -> bool:
        """Whether the library is done with it."""
        return self.content is not None and self.content.test()

    def due_by(self, now: float) -> bool:
        """Whether its time has come."""
        return self.due is not None and self.due <= now

    def test(self) -> bool:
        """Whether it is complete."""
        if self.done:
            return True
        if not self.moved():
            return False
        now = time.perf_counter()
        if not self.lost and not self.due_by(now):
            return False
        self.done = True
        if self.lost:
            return True
        assert self.due is not None
        beacon = self.owner.beacon
        if self.seconds and beacon.waiting:
            self.owner.nic.note(now - max(self.due, beacon.since), self.seconds)
        return True


@final
class LinkedSend(LinkedRequest):
    """A message and its header; complete once it has left."""

    __slots__ = ()

    def moved(self) -> bool:
        """Whether the library is done with both."""
        try:
            announced = bool(self.handle.Test())
        except MPI.Exception as error:
            if not self.owner.deaths.forgives(error):
                raise
            announced = True
        if not (announced and super().moved()):
            return False
        assert self.content is not None
        self.lost = self.content.lost
        return True


@final
class LinkedReceive(LinkedRequest):
    """A message of which first the header is received, (arrival, bytes, number, source), and then under its number the content."""

    __slots__ = ("arrival", "buffer", "peer", "tag")

    def __init__(self, owner: LinkedCommunicator, buffer: Array, peer: int, tag: int, header: Array, handle: MPI.Request) -> None:
        super().__init__(owner, None, None, header, handle)
        self.buffer, self.peer, self.tag = buffer, peer, tag
        self.arrival: Arrival | None = None

    def __str__(self) -> str:
        return f"message from {'all' if self.peer == ANY else self.peer}"

    @property
    def source(self) -> int:
        """Once it is complete: the rank that sent the message, or that is gone."""
        return self.content.source if self.content is not None else self.peer

    def announced(self, arrival: Arrival) -> None:
        """The header has come: receive the content. The caller holds the lock."""
        self.arrival = arrival
        if arrival.source != self.owner.myself:
            self.seconds = self.owner.nic.network.seconds(arrival.nbytes)
        self.content = self.owner.content_of(self.buffer, arrival.source, arrival.number)

    @property
    def wakes(self) -> float | None:
        """When it begins to arrive; from then on, when it is there."""
        if self.due is None and self.arrival is not None and self.content is not None and self.content.done:
            return self.arrival.begins
        return super().wakes

    def due_by(self, now: float) -> bool:
        """Whether it is there; only once it begins to arrive it is known when that will be."""
        assert self.arrival is not None
        if self.due is None and self.arrival.begins <= now:
            self.owner.nic.settle(now)
            self.due = self.arrival.due
        return super().due_by(now)

    def moved(self) -> bool:
        """Whether header and content have come, or never will. Where a sender has died under way, ANY other's message may come."""
        nic = self.owner.nic
        if self.content is None:
            nic.take_in()
        if self.lost or not super().moved():
            return self.lost
        assert self.content is not None
        if self.content.lost and self.peer == ANY:
            with nic.lock:
                self.content = self.arrival = self.due = None
                nic.expected.insert(0, self)
            return False
        self.lost = self.content.lost
        return True


@final
class LinkedReduce(LinkedRequest):
    """An all-reduce of the library, and as its header another that tells when the last rank has entered."""

    __slots__ = ("nbytes",)

    def __init__(self, owner: LinkedCommunicator, content: MpiRequest, nbytes: int, entered: Array, handle: MPI.Request) -> None:
        super().__init__(owner, content, None, entered, handle)
        self.nbytes = nbytes

    def moved(self) -> bool:
        """Whether the library is done with both; then it is known when the link is."""
        if not (super().moved() and self.handle.Test()):
            return False
        if self.due is None:
            nic, size = self.owner.nic, self.owner.size
            self.due = nic.meet(float(self.header[0]), self.nbytes, size)
            self.seconds = nic.network.ring_seconds(self.nbytes, size)
        return True
