"""An emulated link: the ranks of one host exchange real messages, which are there when a slower network would have brought them.

A message is announced by a header that tells when it arrives. Its content moves at once; whoever waits for it sleeps until then.
The times are those of one port each way: what a rank sends leaves one after the other, and so does what arrives (Hockney, 1994).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, final

import numpy as np
from mpi4py import MPI

from workbench.comm.base import ANY, Array, Communicator, Op, Request, Traffic, checked
from workbench.comm.mpi import LOOK_SECONDS, NAP_SECONDS, SPIN_SECONDS, MpiCommunicator
from workbench.comm.mpi_request import MpiRequest
from workbench.comm.network import Network
from workbench.comm.nic import Arrival, LinkedReceive, LinkedReduce, LinkedSend, Nic
from workbench.comm.progress import LOOK_SECONDS as THREAD_SECONDS
from workbench.errors import WorkbenchError

REHEARSAL_BYTES: Final = 1 << 20
REHEARSALS: Final = 8
HEADROOM: Final = 2.0  # the ranks must be able to move so much more than the link carries: they have to compute as well


@final
class LinkedCommunicator(MpiCommunicator):
    """MPI ranks of one host on an emulated `network`. `report` is told once in words when this machine cannot keep up with it.

    A send is complete when it has left, a receive when it has arrived. Messages to itself, and channels that are not counted, are
    free. An all-reduce of the library takes a ring's time from when the last rank has entered, and takes the port for itself.
    """

    simulated = "an emulated link"

    def __init__(
        self, comm: MPI.Intracomm, network: Network, aborted: Callable[[], bool] = lambda: False, report: Callable[[str], None] = lambda words: None
    ) -> None:
        super().__init__(comm, aborted)
        self.nic = Nic(network, report)
        family = self._family
        family.tag_limit //= 2  # the tags above are the numbers of contents
        family.attend = self._attend
        family.progress.nap = lambda under_way: max(1e-6, _nap(under_way, THREAD_SECONDS, THREAD_SECONDS))

    @property
    def myself(self) -> int:
        """This rank among all."""
        return int(self._family.comm.rank)

    def isend(self, buffer: Array, dest: int, tag: int = 0) -> Request:
        """Start sending; what this rank has sent before leaves before."""
        peer, nic, comm = self._peer("isend", dest, tag), self.nic, self._family.comm
        nbytes = checked(buffer).nbytes
        self.traffic.sent(peer, nbytes)
        left, arrival = nic.send(nbytes) if peer != comm.rank else (0.0, 0.0)
        with nic.lock:
            nic.number += 1
            number = nic.number % self._family.tag_limit
        header = np.array([arrival, nbytes, number, comm.rank])
        handle = comm.Isend(header, peer, self._tag + tag)
        content = MpiRequest(self, comm.Isend(buffer, peer, self._family.tag_limit + 1 + number), "send to", dest, buffer, None)
        return LinkedSend(self, content, left, header, handle)

    def irecv(self, buffer: Array, source: int, tag: int = 0) -> Request:
        """Start receiving; what has arrived before is taken in before."""
        peer, nic = self._peer("irecv", source, tag), self.nic
        receive = LinkedReceive(self, checked(buffer), source, tag, np.zeros(4), MPI.REQUEST_NULL)
        if self.outlives:
            nic.take_in()  # those that were posted before come first
        with nic.lock:
            if not self.heard(receive):
                if not self.outlives:  # a header that is received from ANY rank would be one of a rank that dies before its content comes
                    receive.handle = self._family.comm.Irecv(receive.header, peer, self._tag + tag)
                nic.expected.append(receive)
        return receive

    def iprobe(self, source: int = ANY, tag: int = 0) -> bool:
        """Whether a message has arrived. Its header is kept for the receive that will take it."""
        peer, nic = self._peer("iprobe", source, tag), self.nic
        nic.take_in()
        with nic.lock:
            found = self._firsts(peer, tag)
        now = time.perf_counter()
        nic.settle(now)
        return any(arrival.due is not None and arrival.due <= now for arrival in found)

    def iallreduce(self, buffer: Array, op: Op = "sum") -> Request:
        """Collective. Start the library's all-reduce, in place."""
        entered = np.array([time.perf_counter()])
        content = super().iallreduce(buffer, op)
        assert isinstance(content, MpiRequest)
        return LinkedReduce(self, content, buffer.nbytes, entered, self._comm.Iallreduce(MPI.IN_PLACE, entered, MPI.MAX))

    def hosts(self) -> tuple[int, ...]:
        """Every rank has a host of its own, on the network that is emulated."""
        return tuple(range(self.size))

    def channel(self, k: int, counted: bool = True) -> Communicator:
        """Collective, in order. The same ranks with tags of their own; not on the link if not counted."""
        if counted:
            return super().channel(k)
        aside = object.__new__(MpiCommunicator)
        aside._set(self._family, self._comm, self._members, self.rank, self._family.range(), Traffic(self._family.comm.size))
        return aside

    def rehearse(self) -> str:
        """Collective. Move messages as fast as this machine can, for some milliseconds: words if that is too slow for the link, else "".

        WorkbenchError where the ranks are on several hosts, whose clocks differ.
        """
        aside, network = self.channel(0, counted=False), self.nic.network
        if len(set(aside.hosts())) > 1:
            raise WorkbenchError("an emulated link needs all ranks on one host, whose clock they share; choose network=None for real links")
        sent, received = np.ones(REHEARSAL_BYTES, np.uint8), np.ones(REHEARSAL_BYTES, np.uint8)
        right, left = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        seconds = np.full(REHEARSALS, np.inf)
        for turn in range(REHEARSALS):
            aside.wait(aside.iallreduce(np.zeros(1)))
            began = time.perf_counter()
            aside.wait(aside.irecv(received, left), aside.isend(sent, right))
            seconds[turn] = time.perf_counter() - began
        aside.wait(aside.iallreduce(seconds, "max"))
        rate = REHEARSAL_BYTES / float(np.median(seconds))
        if rate > HEADROOM * network.bandwidth:
            return ""
        return (
            f"this machine moves {rate / 1e6:.0f} MB/s for each of {self.size} ranks at once, which is not {HEADROOM:g} times the "
            f"{network.bandwidth / 1e6:g} MB/s of the link: exchanges will take longer than on the network that is emulated"
        )

    def heard(self, receive: LinkedReceive) -> bool:
        """Whether a message has been announced for it, or its sender is gone. The caller holds the lock."""
        found = self._firsts(self._peer("irecv", receive.peer, receive.tag), receive.tag)
        if found:
            arrival = min(found, key=lambda arrival: arrival.begins)
            self.nic.found[self._tag + receive.tag].remove(arrival)
            receive.announced(arrival)
        else:
            receive.lost = receive.peer in self.lost
        return bool(found) or receive.lost

    def content_of(self, buffer: Array, source: int, number: int) -> MpiRequest:
        """Receive a content that has been announced."""
        handle = self._family.comm.Irecv(buffer, source, self._family.tag_limit + 1 + number)
        return MpiRequest(self, handle, "message from", self._positions[source], buffer, MPI.Status())

    def _firsts(self, peer: int, tag: int) -> list[Arrival]:
        """Of the messages that are announced and that no receive is posted for, the first of each source. The caller holds the lock."""
        found = self.nic.found.setdefault(self._tag + tag, [])
        while (message := self.deaths.take(MPI.ANY_SOURCE if self.outlives else peer, self._tag + tag)) is not None:
            header = np.zeros(4)
            message.Irecv(header).Wait()  # it is there
            found.append(self.nic.announce(header, self.myself))
        firsts: dict[int, Arrival] = {}
        for arrival in found:
            if peer in (MPI.ANY_SOURCE, arrival.source):
                firsts.setdefault(arrival.source, arrival)
        return list(firsts.values())

    def _attend(self) -> None:
        """Take in what has come, with housekeeping's."""
        self.nic.take_in()
        self.deaths.hear()

    def _made(self, comm: MPI.Intracomm, members: list[int], rank: int, tag: int, traffic: Traffic) -> LinkedCommunicator:
        child = object.__new__(LinkedCommunicator)
        child._set(self._family, comm, members, rank, tag, traffic)
        child.nic = self.nic
        return child

    def _pause(self, requests: tuple[Request, ...], waited: float) -> float:
        """Until the first time that comes, of what is followed too; what has not moved is polled as often after a long wait."""
        return _nap((*requests, *self._family.progress.under_way), 0.0 if waited <= SPIN_SECONDS else NAP_SECONDS, LOOK_SECONDS)


def _nap(requests: tuple[Any, ...], unmoved: float, longest: float) -> float:
    """Seconds to sleep: until the first of the requests has its time, `unmoved` at most where one has still to move."""
    now = time.perf_counter()
    times = [getattr(request, "wakes", None) for request in _leaves(requests)]
    return max(0.0, min([longest, *(unmoved if wakes is None else wakes - now for wakes in times)]))


def _leaves(requests: tuple[Any, ...]) -> Iterator[Any]:
    """What must be complete, in place of what is followed."""
    for request in requests:
        if not request.done:
            yield from list(_leaves(getattr(request, "pending", ()))) or (request,)
