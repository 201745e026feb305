"""What each rank of `test_laws` runs: `mpiexec -n 4 python -m tests.mpi.ranks`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
from mpi4py import MPI

from tests.laws import allowed, broken, collectives, exact_mean
from tests.mpi.conclusion import conclude
from workbench.comm import mpi
from workbench.comm.base import ANY, Communicator
from workbench.comm.mpi import MpiCommunicator
from workbench.errors import Aborted, PeerLost
from workbench.wires import Float32


def messages(comm: MpiCommunicator) -> Iterator[str]:
    """Point to point: ANY, channels that do not mix, short messages, probes, the traffic's sums."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    first, second = comm.channel(5), comm.channel(6)
    one, two = np.zeros(4), np.zeros(4)
    sent = comm.traffic.total_sent_bytes
    arriving = second.irecv(two, left, 3), first.irecv(one, ANY, 3)
    comm.wait(first.isend(np.full(4, 1.0), right, 3), second.isend(np.full(2, 2.0), right, 3), *arriving)
    if not (np.all(one == 1) and np.all(two == [2, 2, 0, 0]) and arriving[1].source == left):
        yield f"channels mixed on rank {comm.rank}: {one} {two} from {arriving[1].source}"
    if comm.traffic.total_sent_bytes - sent != 48:
        yield f"rank {comm.rank} counted {comm.traffic.total_sent_bytes - sent} bytes instead of 48"

    probing = comm.channel(7)
    sending = probing.isend(np.ones(1), right)
    while not probing.iprobe(left):
        pass
    received = np.zeros(1)
    comm.wait(probing.irecv(received, left), sending)

    requests = [probing.irecv(np.zeros(1), left, tag) for tag in (1, 2)]
    out = probing.isend(np.ones(1), right, 2)
    if probing.wait_any(*requests) != 1:
        yield "wait_any named the request that is not complete"
    comm.wait(comm.iallreduce(np.zeros(1)))  # nobody sends the other message before everyone has looked
    comm.wait(probing.isend(np.ones(1), right, 1), requests[0], out)


def ends(comm: MpiCommunicator) -> Iterator[str]:
    """A wait with an end comes back then and sleeps no longer; everyone's barrier waits for all, several times, and is not counted."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    here = comm.channel(8)
    arriving = here.irecv(np.zeros(1), left)
    naps: list[float] = []
    slept, nap = time.sleep, mpi.NAP_SECONDS
    time.sleep, mpi.NAP_SECONDS = lambda seconds: (naps.append(seconds), slept(seconds))[1], 60.0  # type: ignore[assignment,misc]
    try:
        began, waited = here.now(), here.beacon.waited
        if here.wait_any(arriving, until=began + 0.02) != -1 or here.now() < began + 0.02:
            yield f"a wait until 20 ms from now ended after {here.now() - began} s"
        if not naps or max(naps) > 0.02:
            yield f"naps of a wait until 20 ms from now: {naps}"
        if not 0.02 <= here.beacon.waited - waited <= here.now() - began:
            yield f"{here.beacon.waited - waited} s are noted as waited"
    finally:
        time.sleep, mpi.NAP_SECONDS = slept, nap  # type: ignore[misc]
    if here.wait_any(arriving, until=-math.inf) != -1:
        yield "a message came that nobody has sent"
    aside = here.split(comm.rank % 2)
    before = comm.traffic.total_sent_bytes + comm.traffic.received_bytes
    told, last = np.zeros(1), comm.size - 1
    if comm.rank == 0:
        here.wait(here.irecv(told, last, 1))
    both = here.everyone(), here.everyone()
    if comm.rank == last:
        if here.wait_any(*both, until=here.now() + 0.01) != -1:
            yield "everyone has come before rank 0 has"
        here.wait(here.isend(told, 0, 1))
    here.wait(*both)
    aside.wait(aside.everyone())
    moved = comm.traffic.total_sent_bytes + comm.traffic.received_bytes - before
    if moved != (8 if comm.rank in (0, last) else 0):
        yield f"{moved} bytes are counted for barriers"
    sending = here.isend(np.ones(1), right)
    while here.wait_any(arriving, until=here.now()) < 0:
        sending.test()  # type: ignore[attr-defined]
    here.wait(sending)
    if here.wait_any(arriving, until=-math.inf) != 0:
        yield "a past end hides what is complete"


def bounds(comm: MpiCommunicator) -> Iterator[str]:
    """As on virtual ranks: every call makes a channel of its own, and what is not there is refused."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    one, two = comm.channel(0), comm.channel(0)
    first, second = np.zeros(1), np.zeros(1)
    arriving = one.irecv(first, left), two.irecv(second, left)
    comm.wait(two.isend(np.full(1, 2.0), right), one.isend(np.full(1, 1.0), right), *arriving)
    if (first[0], second[0]) != (1, 2):
        yield "two channels of the same number are one"
    for wrong in (lambda: comm.isend(first, -1), lambda: comm.isend(first, comm.size), lambda: comm.irecv(first, 0, 64)):
        try:
            wrong()
            yield "a peer or a tag that is not there was taken"
        except ValueError:
            pass
    before = comm.traffic.total_sent_bytes
    aside = comm.channel(9, counted=False)
    comm.wait(aside.iallreduce(np.zeros(100)))
    if comm.traffic.total_sent_bytes != before:
        yield "housekeeping was counted"


def groups(comm: MpiCommunicator) -> Iterator[str]:
    """`split` makes groups in the order of the key; also after one of them has made a channel of its own."""
    part = comm.split(comm.rank % 2, key=-comm.rank)
    members = np.array([comm.rank], np.int64)
    part.wait(part.iallreduce(members))
    everyone = [rank for rank in range(comm.size) if rank % 2 == comm.rank % 2]
    if members[0] != sum(everyone) or part.size != len(everyone) or part.rank != sorted(everyone, reverse=True).index(comm.rank):
        yield f"split put rank {comm.rank} at {part.rank} of {part.size}"
    if comm.rank % 2:
        part.channel(0)
    again, told = comm.split(0), np.zeros(1)
    again.wait(again.isend(np.full(1, float(comm.rank)), (comm.rank + 1) % comm.size), again.irecv(told, (comm.rank - 1) % comm.size))
    if told[0] != (comm.rank - 1) % comm.size:
        yield f"rank {comm.rank} has heard {told[0]:.0f}"


def endings(comm: Communicator) -> Iterator[str]:
    """A wait ends when the run is aborted, and when a peer says farewell."""
    began = time.perf_counter()
    tested = MpiCommunicator(MPI.COMM_WORLD.Dup(), aborted=lambda: time.perf_counter() - began > 0.1)
    try:
        nothing = tested.irecv(np.zeros(1), (comm.rank + 1) % comm.size)
        while not tested.test(nothing):
            pass
        yield "a test of nothing ended"
    except Aborted:
        pass
    told = MpiCommunicator(MPI.COMM_WORLD.Dup(), aborted=lambda: time.perf_counter() - began > 0.2)
    try:
        told.wait(told.irecv(np.zeros(1), (comm.rank + 1) % comm.size))
        yield "a wait for nothing ended"
    except Aborted:
        pass
    lonely = MpiCommunicator(MPI.COMM_WORLD.Dup())
    if lonely.rank == 0:
        lonely.farewell("ValueError: out of luck")
        return
    try:
        lonely.wait(lonely.irecv(np.zeros(1), 0))
        yield "a wait for a rank that has failed ended"
    except PeerLost as lost:
        if lost.rank != 0 or "out of luck" not in str(lost):
            yield f"the farewell arrived as {lost}"


def abandoned(comm: MpiCommunicator) -> Iterator[str]:
    """What arrives for a receive that nobody asks for any more finds its own memory, not that of something newer."""
    left, right = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    aside = MpiCommunicator(MPI.COMM_WORLD.Dup())
    aside.irecv(np.zeros(100_000, np.float32), left)
    newer = [np.zeros(100_000, np.float32) for _ in range(8)]
    comm.wait(comm.iallreduce(np.zeros(1)))
    sending = aside.isend(np.ones(100_000, np.float32), right)
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        sending.test()  # type: ignore[attr-defined]
    if any(array.any() for array in newer):
        yield "an abandoned message was written into other memory"
    comm.wait(comm.iallreduce(np.zeros(1)))


def main() -> None:
    """Every law; the words of all ranks are gathered before anyone fails."""
    comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
    pieces = comm.channel(1)
    pieces.piece_bytes = 4096  # parts of the longest buffer are added piece by piece
    found = broken(pieces, lengths=(0, 1, 5, 64, 1023, 20_011), count=2)
    for collective in collectives():
        if allowed(collective, Float32(), comm.size):
            found += exact_mean(comm, collective, Float32(), 300_007)
    for law in (messages, ends, bounds, groups, abandoned, endings):
        found += law(comm)
    conclude(found, f"laws kept on {comm.size} ranks")


if __name__ == "__main__":
    main()
