"""A rank's end of an emulated network: when its messages leave and arrive, and whether that is kept."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from mpi4py import MPI

from workbench.comm.base import ANY, Array
from workbench.comm.mpi_request import MpiRequest
from workbench.comm.network import Network

if TYPE_CHECKING:
    from workbench.comm.link import LinkedCommunicator

ENOUGH: Final = 200  # messages that were waited for, before it is said that they come late
LATE: Final = 0.1  # of the time that they should take


@final
class Nic:
    """A rank's end of the emulated network, shared by all its communicators: until when its port is taken, each way."""

    def __init__(self, network: Network, report: Callable[[str], None]) -> None:
        self.network, self._report = network, report
        self.lock = threading.Lock()
        self.tx_free = self.rx_free = 0.0
        self.expected: list[LinkedReceive] = []
        """Receives, in the order in which they were posted, whose header has not come yet."""
        self.arriving: list[tuple[float, int, LinkedReceive]] = []
        """Announced messages by when their first byte comes: a heap."""
        self.found: dict[int, list[Array]] = {}
        """Tag -> headers that `iprobe` has found and no receive has taken yet."""
        self.number = 0
        self._late = self._due = 0.0
        self._messages = 0

    def send(self, nbytes: int) -> tuple[float, float]:
        """When a message that is sent now has left, and when it arrives."""
        with self.lock:
            self.tx_free = max(time.perf_counter(), self.tx_free) + nbytes / self.network.bandwidth
            return self.tx_free, self.tx_free + self.network.latency

    def arrival(self, told: float, nbytes: float) -> float:
        """When a message is there that arrives at `told`, or as soon as the port has taken in what came before."""
        return max(told, self.rx_free + nbytes / self.network.bandwidth)

    def meet(self, latest: float, nbytes: int, size: int) -> float:
        """When an all-reduce is through that the last rank has entered at `latest`: after a ring's time, one all-reduce after the other."""
        with self.lock:
            begin = max(latest, self.tx_free, self.rx_free)
            self.tx_free = self.rx_free = begin + 2 * (size - 1) / size * nbytes / self.network.bandwidth
            return begin + self.network.ring_seconds(nbytes, size)

    def take_in(self) -> None:
        """See which headers have come, and have the contents follow: of all receives, since a peer may wait to get rid of any."""
        with self.lock:
            if self.expected and (come := MPI.Request.Testsome([receive.handle for receive in self.expected])):
                for index in come:
                    self.expected[index].announced()
                self.expected = [receive for receive in self.expected if receive.content is None]

    def settle(self, now: float) -> None:
        """Take in what has begun to arrive, in the order in which it did: whoever began earlier has been announced by now."""
        with self.lock:
            while self.arriving and self.arriving[0][0] <= now:
                receive = heapq.heappop(self.arriving)[2]
                receive.due = self.rx_free = self.arrival(receive.header[0], receive.header[1])

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
    """Something that is complete once it has moved and its time has come."""

    __slots__ = ("content", "done", "due", "owner", "seconds")

    def __init__(self, owner: LinkedCommunicator, content: MpiRequest | None, due: float | None, seconds: float = 0.0) -> None:
        self.owner, self.content, self.due, self.done = owner, content, due, False
        self.seconds = seconds
        """What it takes on the link; 0 where nobody waits for it to arrive."""

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
        if not self.due_by(now):
            return False
        assert self.due is not None
        self.done = True
        beacon = self.owner.beacon
        if self.seconds and beacon.waiting:
            self.owner.nic.note(now - max(self.due, beacon.since), self.seconds)
        return True


@final
class LinkedSend(LinkedRequest):
    """A message and its header; complete once it has left."""

    __slots__ = ("handle", "header")

    def __init__(self, owner: LinkedCommunicator, content: MpiRequest, due: float, header: Array, handle: MPI.Request) -> None:
        super().__init__(owner, content, due)
        self.header, self.handle = header, handle

    def moved(self) -> bool:
        """Whether the library is done with both."""
        return bool(self.handle.Test()) and super().moved()


@final
class LinkedReceive(LinkedRequest):
    """A message of which first the header is received, (arrival, bytes, number, source), and then under its number the content."""

    __slots__ = ("begins", "buffer", "handle", "header", "peer")

    def __init__(self, owner: LinkedCommunicator, buffer: Array, peer: int, header: Array, handle: MPI.Request) -> None:
        super().__init__(owner, None, None)
        self.buffer, self.peer, self.header, self.handle = buffer, peer, header, handle
        self.begins = 0.0

    def __str__(self) -> str:
        return f"message from {'all' if self.peer == ANY else self.peer}"

    def announced(self) -> None:
        """The header has come: queue for the port, and receive the content. The caller holds the lock."""
        owner, nic = self.owner, self.owner.nic
        arrival, nbytes, number, source = self.header
        if int(source) == owner.myself:
            self.due = arrival
        else:
            self.begins = arrival - nbytes / nic.network.bandwidth
            heapq.heappush(nic.arriving, (self.begins, id(self), self))
            self.seconds = nic.network.seconds(nbytes)
        self.content = owner.content_of(self.buffer, int(source), int(number))

    @property
    def wakes(self) -> float | None:
        """When it begins to arrive; from then on, when it is there."""
        return self.begins if self.due is None and self.content is not None and self.content.done else super().wakes

    def due_by(self, now: float) -> bool:
        """Whether it is there; only once it begins to arrive it is known when that will be."""
        if self.due is None and self.begins <= now:
            self.owner.nic.settle(now)
        return super().due_by(now)

    def moved(self) -> bool:
        """Whether header and content have come."""
        if self.content is None:
            self.owner.nic.take_in()
        return super().moved()


@final
class LinkedReduce(LinkedRequest):
    """An all-reduce of the library, and another that tells when the last rank has entered."""

    __slots__ = ("entered", "handle", "nbytes")

    def __init__(self, owner: LinkedCommunicator, content: MpiRequest, nbytes: int, entered: Array, handle: MPI.Request) -> None:
        super().__init__(owner, content, None)
        self.nbytes, self.entered, self.handle = nbytes, entered, handle

    def moved(self) -> bool:
        """Whether the library is done with both; then it is known when the link is."""
        if not (super().moved() and self.handle.Test()):
            return False
        if self.due is None:
            nic, size = self.owner.nic, self.owner.size
            self.due = nic.meet(float(self.entered[0]), self.nbytes, size)
            self.seconds = nic.network.ring_seconds(self.nbytes, size)
        return True
