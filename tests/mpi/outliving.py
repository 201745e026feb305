"""What each rank of `test_outliving` runs, `python -m tests.mpi.outliving mpi` or `link`: rank 2 dies among messages, rank 4 in a meeting."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np

from workbench.comm.base import ANY, Communicator
from workbench.comm.link import LinkedCommunicator
from workbench.comm.mpi import MpiCommunicator
from workbench.comm.network import Network
from workbench.errors import PeerLost

FIRST, SECOND = 2, 4
LIVING = [0, 1, 3]
MESSAGES = 60
LENGTHS = (3, 200_000)
"""Numbers of a message: one that is sent at once, and one that the receiver fetches from the sender's memory."""
MESSAGE, BYE = 0, 1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def gossip(comm: Communicator) -> Iterator[str]:
    """Everybody sends to everybody at random and takes what comes; of those that live every message comes once, in order, whole."""
    random = np.random.default_rng(comm.rank)
    heard: dict[int, list[int]] = {rank: [] for rank in range(comm.size)}
    taking, sending = np.zeros(LENGTHS[1]), []
    receive, bye, byes = comm.irecv(taking, ANY, MESSAGE), comm.irecv(np.zeros(1), ANY, BYE), set[int]()
    sent = [0] * comm.size

    def take(until: float | None) -> Iterator[str]:
        nonlocal receive, bye
        while (which := comm.wait_any(receive, bye, until=until)) >= 0:
            if which == 1:
                byes.add(bye.source)
                bye = comm.irecv(np.zeros(1), ANY, BYE)
                return
            source, number, length = (int(told) for told in taking[:3])
            if source != receive.source or not np.all(taking[3:length] == number):
                yield f"message {number} of rank {source} came from {receive.source}, or not whole"
            heard[source].append(number)
            receive = comm.irecv(taking, ANY, MESSAGE)

    for turn in range(MESSAGES):
        peer = int(random.choice([rank for rank in range(comm.size) if rank != comm.rank]))
        message = np.full(random.choice(LENGTHS), float(sent[peer]))
        message[:3] = comm.rank, sent[peer], message.size
        sent[peer] += 1
        sending.append(comm.isend(message, peer, MESSAGE))
        if comm.rank == FIRST and turn == MESSAGES // 2:
            die()
        yield from take(comm.now() + 1e-3)
    while not comm.test(*sending):
        yield from take(comm.now() + 1e-3)
    told = np.array(sent, np.float64)
    goodbyes = [comm.isend(told[peer : peer + 1], peer, BYE) for peer in range(comm.size) if peer != comm.rank]
    while byes | comm.lost < set(range(comm.size)) - {comm.rank}:
        yield from take(comm.now() + 1e-3)
    comm.wait(*goodbyes)
    yield from take(-np.inf)
    if comm.lost != {FIRST}:
        yield f"lost are {comm.lost}"
    if any(request.lost and str(request) != f"send to {FIRST}" for request in sending):
        yield "a message to one that lives is lost"
    for rank, numbers in heard.items():
        complete = rank != FIRST  # of the last ones of the dead those are missing that were to be fetched
        if numbers != (list(range(len(numbers))) if complete else sorted(set(numbers))):
            yield f"of rank {rank} came {numbers}"
        expected = [int(peer) == comm.rank for peer in partners(rank, comm.size)].count(True)
        if complete and rank != comm.rank and len(numbers) != expected:
            yield f"of rank {rank} came {len(numbers)} messages of {expected}"


def partners(rank: int, size: int) -> list[int]:
    """To whom a rank sends: what its random numbers say."""
    random = np.random.default_rng(rank)
    chosen = []
    for _ in range(MESSAGES):
        chosen.append(int(random.choice([peer for peer in range(size) if peer != rank])))
        random.choice(LENGTHS)
    return chosen


def dead(comm: Communicator) -> Iterator[str]:
    """Whatever one does with a rank that is dead is complete and lost; a part of the ranks knows it by its own numbers."""
    big = np.ones(LENGTHS[1])
    receive, sending = comm.irecv(big, FIRST, 9), comm.isend(big, FIRST, 9)
    comm.wait(receive, sending)
    if not (receive.lost and sending.lost and receive.source == FIRST):
        yield f"of messages with a dead rank lost is {receive.lost}, {sending.lost}, from {receive.source}"
    if comm.iprobe(FIRST, 9) or comm.iprobe(ANY, 9):
        yield "a dead rank has sent something"


def meeting(comm: Communicator) -> Iterator[str]:
    """Everyone is complete when the last that lives has called it, though one dies without; not before."""
    told = np.zeros(1)
    if comm.rank == SECOND:
        comm.wait(comm.irecv(told, 0, 2))
        die()
    if comm.rank == 3:
        comm.wait(comm.irecv(told, 0, 2))
    both = comm.everyone(), comm.everyone()
    if comm.rank == 0:
        if comm.wait_any(*both, until=comm.now() + 0.02) >= 0:
            yield "everyone has come before all have"
        comm.wait(comm.isend(told, SECOND, 2))
        if comm.wait_any(*both, until=comm.now() + 0.02) >= 0:
            yield "everyone has come before all that live have"
        comm.wait(comm.isend(told, 3, 2))
    comm.wait(*both)
    if any(request.lost for request in both):
        yield "a barrier is lost"


def alive(comm: Communicator) -> Iterator[str]:
    """Those that live are a communicator like any other: all-reduce, parts, channels; counted by the first ranks."""
    few = comm.survivors()
    if comm.lost != {FIRST, SECOND} or few.lost or few.size != len(LIVING) or few.rank != LIVING.index(comm.rank):
        yield f"rank {comm.rank} is {few.rank} of {few.size}, where {comm.lost} and {few.lost} are lost"
    number = np.array([float(comm.rank)])
    few.wait(few.iallreduce(number))
    if number[0] != sum(LIVING):
        yield f"the sum of those that live is {number}"
    try:
        comm.wait(comm.iallreduce(np.zeros(1)))
        yield "dead ranks took part"
    except PeerLost as lost:
        if lost.rank not in (FIRST, SECOND):
            yield str(lost)


def parts(comm: Communicator, few: Communicator) -> Iterator[str]:
    """Parts and channels of those that live."""
    half = few.split(few.rank // 2)
    number = np.array([float(comm.rank)])
    half.wait(half.iallreduce(number))
    if number[0] != (1.0 if comm.rank < 2 else 3.0):
        yield f"the sum of part {few.rank // 2} is {number}"
    if comm.rank < 2:
        half.channel(4)  # the other half has none
    aside = few.survivors().channel(3)
    right, left, came = LIVING[(few.rank + 1) % 3], (few.rank - 1) % 3, np.zeros(2)
    before = comm.traffic.sent_bytes[right]
    receive = aside.irecv(came, ANY)
    aside.wait(receive, aside.isend(np.full(2, float(comm.rank)), (few.rank + 1) % 3))
    if receive.source != left or came[0] != LIVING[left] or comm.traffic.sent_bytes[right] != before + 16:
        yield f"{came} from {receive.source}; to rank {right} are counted {comm.traffic.sent_bytes[right] - before} bytes"
    aside.wait(aside.everyone())


def farewell(comm: Communicator) -> Iterator[str]:
    """A rank that raises is not outlived: it says so."""
    if comm.rank == 0:
        comm.wait(*(comm.irecv(np.zeros(1), rank, 3) for rank in LIVING[1:]))
        comm.farewell("ValueError: out of luck")
        return
    try:
        comm.wait(comm.isend(np.zeros(1), 0, 3), comm.irecv(np.zeros(1), 0, 4))
        yield "a wait for a rank that has failed ended"
    except PeerLost as lost:
        if lost.rank != 0 or "out of luck" not in str(lost):
            yield f"the farewell arrived as {lost}"


def main() -> None:
    """Every law; each rank that lives says what it found."""
    from mpi4py import MPI

    end = time.monotonic() + 40.0

    def aborted() -> bool:
        return time.monotonic() > end

    world = MPI.COMM_WORLD.Dup()
    fast = Network(latency=20e-6, bandwidth=1e10)
    comm = LinkedCommunicator(world, fast, aborted) if "link" in sys.argv else MpiCommunicator(world, aborted)
    comm.outlive()
    found: list[str] = []
    channel = comm.channel(1)
    for law in (gossip, dead, meeting, alive):
        found += law(channel)
    found += parts(channel, channel.survivors())
    found += farewell(channel)
    print(f"rank {comm.rank}: {'; '.join(found) or 'kept'}", flush=True)
    os._exit(bool(found))  # MPI's own end may wait for the dead


if __name__ == "__main__":
    main()
