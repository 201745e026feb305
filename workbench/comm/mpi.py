"""Real ranks: the communicator's verbs on MPI, with one polite wait.

No blocking MPI call is made while ranks train. Neither MPICH nor Open MPI wakes from one on a signal or an abort, and
both burn a core inside it; so every message is started without blocking and then polled.
"""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Final

import numpy as np
from mpi4py import MPI

from workbench.comm.base import ANY, Array, Communicator, Op, Request, Traffic, checked, count_allreduce, time_of
from workbench.comm.family import FAREWELL, TAGS, Family, sharpen_sleep
from workbench.comm.mpi_request import MpiRequest
from workbench.comm.ulfm import Agreement, AnyReceive
from workbench.errors import Aborted, PeerLost, WorkbenchError

SPIN_SECONDS: Final = 200e-6  # polling without sleeping: longer hurts where ranks share cores
NAP_SECONDS: Final = 50e-6
LONGEST_NAP: Final = 1e-3  # of a server nobody talks to, which then takes little of its core
PATIENCE: Final = 50  # a nap is at most so much shorter than what has been waited already: a wait gets at most 2 % longer
PIECE_BYTES: Final = 1 << 18  # measured: 100 MB take 0.9 of the time of MPI's own all-reduce with it, 1.2 without
LOOK_SECONDS: Final = 2e-3  # between two looks for farewells
DIED: Final = "its process died"
OPS: Final = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}


class MpiCommunicator(Communicator):
    """MPI ranks. `comm` must be a fresh duplicate: a communicator that a run was aborted on is never used again.

    `aborted` is asked while waiting; True ends the wait with `Aborted`.
    """

    piece_bytes = PIECE_BYTES

    def __init__(self, comm: MPI.Intracomm, aborted: Callable[[], bool] = lambda: False) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise WorkbenchError("this MPI library was started without MPI_THREAD_MULTIPLE, which the workbench needs")
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        sharpen_sleep()
        family = Family(comm, aborted)
        self._set(family, comm, list(range(comm.size)), comm.rank, family.range(), Traffic(comm.size))

    def _set(self, family: Family, comm: MPI.Intracomm, members: list[int], rank: int, tag: int, traffic: Traffic) -> None:
        self._family, self._comm, self._members, self._tag = family, comm, members, tag
        self._positions = {member: position for position, member in enumerate(members)}
        self.deaths = family.deaths
        self.rank, self.size = rank, len(members)
        self.traffic, self.beacon, self.now = traffic, family.beacon, time.perf_counter

    def isend(self, buffer: Array, dest: int, tag: int = 0) -> Request:
        """Start sending."""
        checked(buffer)
        peer = self._peer("isend", dest, tag)
        self.traffic.sent(peer, buffer.nbytes)
        return MpiRequest(self, self._family.comm.Isend(buffer, peer, self._tag + tag), "send to", dest, buffer, None)

    def irecv(self, buffer: Array, source: int, tag: int = 0) -> Request:
        """Start receiving."""
        checked(buffer)
        peer = self._peer("irecv", source, tag)
        if source == ANY and self.deaths.outlived:
            return AnyReceive(self, buffer, self._tag + tag)
        return MpiRequest(self, self._family.comm.Irecv(buffer, peer, self._tag + tag), "message from", source, buffer, MPI.Status())

    def iprobe(self, source: int = ANY, tag: int = 0) -> bool:
        """Look whether a message is there."""
        peer = self._peer("iprobe", source, tag)
        self.deaths.hear()
        return self.deaths.probe(peer, self._tag + tag)

    def iallreduce(self, buffer: Array, op: Op = "sum") -> Request:
        """Collective. Start the library's all-reduce, in place."""
        checked(buffer)
        if self.lost:  # one that fails may leave messages of ranks that live stuck, in Open MPI 5.0
            raise self.died()
        self.carried(buffer.nbytes)
        return MpiRequest(self, self._comm.Iallreduce(MPI.IN_PLACE, buffer, OPS[op]), "all-reduce with", ANY, buffer, None)

    def carried(self, nbytes: int) -> None:
        """Count what a library says nothing about."""
        count_allreduce(self.traffic, self.size, self._members[(self.rank + 1) % self.size], nbytes)

    def test(self, *requests: Request) -> bool:
        """Poll once, and let everything go on that is followed; now and then a test in vain looks whether the run is to end."""
        family = self._family
        family.progress.waits(True)
        try:
            family.progress.carry_on(besides=requests)
            family.attend()
            if self._all(requests):
                return True
            family.tested_in_vain()
        except MPI.Exception as error:
            raise self._lost(error) from error
        finally:
            family.progress.waits(False)
        return False

    def wait(self, *requests: Request) -> None:
        """Poll, shortly without sleeping, then politely."""
        self._poll(requests, lambda: self._all(requests))

    def wait_any(self, *requests: Request, until: float | None = None) -> int:
        """Poll until one is complete."""
        if not requests:
            raise ValueError("wait_any needs at least one request")
        found = -1

        def done() -> bool:
            nonlocal found
            found = next((index for index, request in enumerate(requests) if request.test()), -1)  # type: ignore[attr-defined]
            return found >= 0

        self._poll(requests, done, time_of(until))
        return found

    def everyone(self) -> Request:
        """MPI's barrier, without blocking; where ranks are outlived its agreement, which needs only those that live."""
        if self.deaths.outlived:
            flag = np.ones(1, np.int32)
            return Agreement(self, self._comm.Iagree(flag), flag)
        return MpiRequest(self, self._comm.Ibarrier(), "barrier with", ANY, np.zeros(0, np.uint8), None)

    @property
    def outlives(self) -> bool:
        """By ULFM, which Open MPI has since release 5."""
        return self.deaths.outlived

    @property
    def lost(self) -> frozenset[int]:
        """As far as this rank has noticed."""
        known = self.deaths.known if self.deaths.outlived else ()
        return frozenset(self._positions[member] for member in known if member in self._positions)

    def outlive(self) -> None:
        """Where the library has ULFM."""
        self.deaths.outlive()

    def survivors(self) -> Communicator:
        """Collective among the ranks that live. All wait politely until the last has come; what blocks is short then."""
        if not self.deaths.outlived:
            return self
        self.wait(self.everyone())
        comm = MPI.Intracomm(self._comm.Shrink())
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        positions = MPI.Group.Translate_ranks(comm.Get_group(), list(range(comm.size)), self._comm.Get_group())
        members = [self._members[position] for position in positions]
        self.deaths.known |= set(self._members) - set(members)
        meeting, tags = MpiCommunicator._made(self, comm, members, comm.rank, 0, Traffic(self._family.comm.size)), np.array([self._family.tags])
        meeting.wait(meeting.iallreduce(tags, "max"))
        self._family.tags = int(tags[0])  # some may have made channels among themselves
        return self._made(comm, members, comm.rank, self._family.range(), self.traffic)

    @property
    def hidden_seconds(self) -> float:
        """Of everything that this family follows."""
        return self._family.progress.hidden_seconds

    def follow(self, steps: Iterator[tuple[Request, ...]]) -> Request:
        """Go on with it at every poll of this rank, and between them on a thread that sleeps."""
        return self._family.progress.follow(steps)

    def hosts(self) -> tuple[int, ...]:
        """Collective. By name and start of the machine: containers have names of their own, hosts starts."""
        booted = Path("/proc/sys/kernel/random/boot_id")
        told = np.zeros(self.size, np.int64)
        told[self.rank] = zlib.crc32(f"{socket.gethostname()} {booted.read_text() if booted.exists() else ''}".encode())
        self.wait(self.iallreduce(told))
        return tuple(int(np.argmax(told == host)) for host in told)

    def split(self, color: int, key: int | None = None) -> Communicator:
        """Collective. A group of its own; the choice of all ranks is gathered first, so that creating it waits for nobody."""
        choices = np.zeros((self.size, 3), np.int64)
        choices[self.rank] = color, self.rank if key is None else key, self._family.tags
        self.wait(self.iallreduce(choices))
        self._family.tags = int(choices[:, 2].max())  # some may have made channels among themselves
        positions = sorted((int(k), position) for position, (c, k, _) in enumerate(choices) if c == color)
        members = [self._members[position] for _, position in positions]
        group = self._comm.Get_group().Incl([position for _, position in positions])
        tag = self._family.range()
        comm = self._comm.Create_group(group, tag % 32767)
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        return self._made(comm, members, members.index(self._members[self.rank]), tag, self.traffic)

    def channel(self, k: int, counted: bool = True) -> Communicator:
        """Collective, in order. The same ranks with tags of their own."""
        return self._made(self._comm, self._members, self.rank, self._family.range(), self.traffic if counted else Traffic(self._family.comm.size))

    def farewell(self, reason: str) -> None:
        """Send a last word to everyone; does not wait until it is heard."""
        self._family.progress.drop()
        word = np.frombuffer(reason.encode()[:2000], np.uint8)
        comm = self._family.comm
        for peer in range(comm.size):
            if peer != comm.rank and peer not in self.deaths.known:
                self._family.farewells.append((word, comm.Isend(word, peer, FAREWELL)))

    def position(self, member: int) -> int:
        """Of a rank of MPI."""
        return self._positions[member]

    def died(self) -> PeerLost:
        """The error of a collective that a rank has died in."""
        return PeerLost(self._members[min(self.lost)], DIED)

    @staticmethod
    def _all(requests: tuple[Request, ...]) -> bool:
        return all([request.test() for request in requests])  # type: ignore[attr-defined]  # noqa: C419 (all must progress)

    def _poll(self, requests: tuple[Request, ...], done: Callable[[], bool], until: float = inf) -> None:
        family, clock = self._family, time.perf_counter
        self.beacon.since = started = clock()
        look = started + LOOK_SECONDS
        self.beacon.waiting = requests
        family.progress.waits(True)
        try:
            while not done():
                family.progress.carry_on(besides=requests)
                family.attend()
                now = clock()
                if now - started > SPIN_SECONDS and family.aborted():
                    raise Aborted(f"told to end while waiting: {self.beacon.operation}")
                if now > look:
                    family.look()
                    look = now + LOOK_SECONDS
                if now >= until:
                    family.tested_in_vain()
                    break
                pause = min(self._pause(requests, now - started), until - now)
                if pause > 0:
                    time.sleep(pause)
                else:
                    os.sched_yield()  # ranks may share the core
        except MPI.Exception as error:  # a library that survives a dead peer may say so in the look for farewells
            raise self._lost(error) from error
        except BaseException:
            family.progress.drop()
            raise
        finally:
            family.progress.waits(False)
            self.beacon.waiting = ()
            self.beacon.waited += clock() - started

    def _pause(self, requests: tuple[Request, ...], waited: float) -> float:
        """Seconds to sleep before the next poll."""
        return 0.0 if waited <= SPIN_SECONDS else min(max(NAP_SECONDS, waited / PATIENCE), LONGEST_NAP)

    def _made(self, comm: MPI.Intracomm, members: list[int], rank: int, tag: int, traffic: Traffic) -> MpiCommunicator:
        """One more communicator of this family."""
        child = object.__new__(MpiCommunicator)
        child._set(self._family, comm, members, rank, tag, traffic)
        return child

    def _peer(self, verb: str, rank: int, tag: int) -> int:
        """The MPI rank of a position; ValueError for one that is not there, or a tag that belongs to another channel."""
        if not 0 <= tag < TAGS:
            raise ValueError(f"{verb}(tag={tag!r}): tag must be a whole number in [0, {TAGS - 1}], got {tag!r}")
        if rank == ANY and verb != "isend":
            return MPI.ANY_SOURCE
        if not 0 <= rank < self.size:
            also = "" if verb == "isend" else " or ANY"
            raise ValueError(f"{verb}: a peer must be a rank in [0, {self.size - 1}]{also}, got {rank!r}")
        return self._members[rank]

    def _lost(self, error: MPI.Exception) -> WorkbenchError:
        """The error of a library that survives a dead peer (ULFM), as the rank that died. Nothing is followed any more."""
        self._family.progress.drop()
        try:
            comm = self._family.comm
            failed = comm.Get_failed()
            positions = MPI.Group.Translate_ranks(failed, list(range(failed.size)), comm.Get_group())
        except (MPI.Exception, NotImplementedError, AttributeError):
            positions = []
        if positions:
            return PeerLost(int(positions[0]), DIED)
        return WorkbenchError(f"MPI failed: {error.Get_error_string()}")
