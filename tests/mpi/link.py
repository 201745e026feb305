"""What each rank of `test_link` runs: `mpiexec -n 3 python -m tests.mpi.link`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from tests.laws import broken
from tests.mpi.conclusion import conclude
from tests.mpi.ranks import bounds, ends, groups, messages
from workbench.collectives import Ring
from workbench.comm import nic
from workbench.comm.base import ANY, Communicator, Request
from workbench.comm.link import LinkedCommunicator
from workbench.comm.mpi_request import keep
from workbench.comm.network import Network
from workbench.comm.nic import ENOUGH, Nic
from workbench.errors import Aborted, PeerLost

FAST = Network(latency=20e-6, bandwidth=1e10)
SLOW = Network(latency=5e-3, bandwidth=1e7)
BIG = 200_000
"""Bytes: 20 ms on the slow link."""


def linked(network: Network = SLOW, **given: Any) -> LinkedCommunicator:
    return LinkedCommunicator(MPI.COMM_WORLD.Dup(), network, **given)


def took(comm: Communicator, what: Callable[[], object]) -> float:
    """Seconds from when the first rank begins until the last is through; all begin when all have come."""
    aside = comm.channel(0, counted=False)
    aside.wait(aside.iallreduce(np.zeros(1)))
    began = time.perf_counter()
    what()
    span = np.array([-began, time.perf_counter()])
    aside.wait(aside.iallreduce(span, "max"))
    return float(span.sum())


def early(what: str, seconds: float, least: float) -> Iterator[str]:
    """Never faster than the link. There is no upper bound here: how long a loaded machine takes is not for a test to say."""
    if seconds < least - 1e-9:
        yield f"{what} took {seconds * 1e3:.2f} ms, less than the {least * 1e3:.2f} ms of the link"


def one_port(comm: LinkedCommunicator) -> Iterator[str]:
    """What a rank sends shares its port, and so does what arrives; both go on at once; a message to itself is free."""
    rank, last = comm.rank, comm.size - 1
    out, into = np.ones(BIG, np.uint8), [np.zeros(BIG, np.uint8) for _ in range(comm.size)]

    def scatter() -> None:
        if rank == 0:
            comm.wait(*(comm.isend(out, peer) for peer in range(1, comm.size)))
        else:
            comm.wait(comm.irecv(into[0], 0))

    def gather() -> None:
        if rank == 0:
            comm.wait(*(comm.irecv(into[peer], peer) for peer in range(1, comm.size)))
        else:
            comm.wait(comm.isend(out, 0))

    def swap() -> None:
        comm.wait(comm.irecv(into[0], (rank - 1) % comm.size), comm.isend(out, (rank + 1) % comm.size))

    yield from early("sending to all", took(comm, scatter), last * BIG / SLOW.bandwidth + SLOW.latency)
    yield from early("receiving from all", took(comm, gather), last * BIG / SLOW.bandwidth + SLOW.latency)
    yield from early("sending and receiving", took(comm, swap), SLOW.seconds(BIG))
    free, own = (comm.nic.tx_free, comm.nic.rx_free), np.zeros(BIG, np.uint8)
    comm.wait(comm.irecv(own, rank), comm.isend(out, rank))
    if (comm.nic.tx_free, comm.nic.rx_free) != free or not own.all():
        yield "a message to itself did not come, or has taken the port"


def order(comm: LinkedCommunicator) -> Iterator[str]:
    """Messages of one pair are received as they were sent, however the receives are asked and named; short ones too."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    count = 8
    into = [np.zeros(BIG // 4, np.uint8) for _ in range(count)]
    receives = [comm.irecv(each, ANY if index % 2 else left, 7) for index, each in enumerate(into)]
    lengths = [BIG // 4 >> index for index in range(count)]
    sends = [comm.isend(np.full(length, index + 1, np.uint8), right, 7) for index, length in enumerate(lengths)]
    comm.wait(*reversed(receives), *sends)
    for index, (each, length) in enumerate(zip(into, lengths, strict=True)):
        if not (np.all(each[:length] == index + 1) and np.all(each[length:] == 0) and receives[index].source == left):
            yield f"message {index} on rank {comm.rank}: {np.unique(each)} from {receives[index].source}"


def probes(comm: LinkedCommunicator) -> Iterator[str]:
    """A probe sees a message when it has arrived, not before; the receive then takes what the probe has seen."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    sends: list[Request] = []

    def see() -> None:
        sends.extend(comm.isend(np.full(BIG, float(index), np.float32), right, 3) for index in (1, 2))
        while not comm.iprobe(left, 3):
            time.sleep(1e-4)

    yield from early("a probe", took(comm, see), SLOW.seconds(4 * BIG))
    first, second = np.zeros(BIG, np.float32), np.zeros(BIG, np.float32)
    receive = comm.irecv(first, ANY, 3)
    if not comm.test(receive):
        comm.wait(receive)
    comm.wait(comm.irecv(second, left, 3), *sends)
    if (first[-1], second[-1], receive.source) != (1, 2, left):
        yield f"what was probed is {first[-1]}, {second[-1]} from {receive.source}"


def lateness(comm: LinkedCommunicator) -> Iterator[str]:
    """What has long arrived does not wait for what came later, however late it is asked for; of several, any takes what came first."""
    rank, last = comm.rank, comm.size - 1
    if last < 2:
        return
    held, small = np.zeros(10 * BIG, np.uint8), np.zeros(1000, np.uint8)

    def posted_late() -> None:
        if rank == 1:
            comm.wait(comm.isend(small, 0, 1))
        elif rank == 2:
            time.sleep(0.05)
            comm.wait(comm.isend(held, 0, 2))
        elif rank == 0:
            long = comm.irecv(held, 2, 2)
            while comm.nic.rx_free == free:
                comm.test(long)
            short = comm.irecv(small, 1, 1)
            comm.wait(short)
            ahead.append(long.done or comm.test(long))
            comm.wait(long)

    def overtaken() -> None:
        if rank == 1:  # this one leaves only after another that is large
            comm.wait(comm.isend(held, 2, 1), comm.isend(small, 0, 1))
        elif rank == 2:
            large = comm.irecv(held, 1, 1)
            time.sleep(0.05)
            comm.wait(large, comm.isend(small, 0, 1))
        elif rank == 0:
            while not comm.iprobe(ANY, 1):
                time.sleep(1e-4)
            order = [comm.irecv(small, ANY, 1) for _ in range(2)]
            comm.wait(*order)
            sources.extend(receive.source for receive in order)

    free, ahead, sources = comm.nic.rx_free, list[bool](), list[int]()
    took(comm, posted_late)
    took(comm, overtaken)
    if ahead == [True]:
        yield "what had arrived was there only after what came later"
    if rank == 0 and sources != [2, 1]:
        yield f"messages were taken in the order {sources}, which is not that in which they arrived"


def taking_the_port(comm: LinkedCommunicator) -> Iterator[str]:
    """A message that is asked for late has the time at which the port was free for it, and what comes in turn has no gaps."""
    port = Nic(Network(latency=0.0, bandwidth=1.0), lambda words: None)

    def due(*messages: tuple[float, int]) -> list[float]:
        """Of messages (begins, bytes) that are settled one by one."""
        port.taken.clear()
        arrivals = []
        for begins, nbytes in messages:
            arrivals.append(port.announce(np.array([begins + nbytes, nbytes, 0, comm.rank + 1]), comm.rank))
            port.settle(np.inf)
        return [float(arrival.due or 0.0) for arrival in arrivals]

    for what, found, should in (
        ("in order", due((0, 2), (1, 2), (9, 1)), [2, 4, 10]),
        ("an empty one in turn", due((0, 2), (1, 2), (2, 0)), [2, 4, 4]),
        ("long before", due((5, 3), (0, 2)), [8, 2]),
        ("without room", due((5, 3), (4, 2), (0, 4), (1, 1)), [8, 10, 4, 5]),
        ("a gap of the same length", due((3.3, 0), (0.1, 1), (1.1 + 1e-12, 2), (3.1, 1)), [3.3, 1.1, 3.1, 4.3]),
    ):
        if not np.allclose(found, should, rtol=0, atol=1e-9):
            yield f"{what}: the messages are there at {found}, not {should}"


def abandoned(comm: LinkedCommunicator) -> Iterator[str]:
    """What a library still writes into outlives those who asked for it; what is complete is let go."""
    crawl = linked(Network(latency=0.0, bandwidth=100.0))
    kept: list[np.ndarray] = []

    def noting(handle: MPI.Request, *buffers: np.ndarray) -> None:
        keep(handle, *buffers)
        kept.extend(buffers)

    nic.keep, before = noting, nic.keep
    try:
        own = [crawl.isend(np.zeros(1), comm.rank), crawl.irecv(np.zeros(1), comm.rank)]
        crawl.wait(*own)
        own.clear()
        if kept:
            yield f"{len(kept)} arrays of what was complete are kept"
        receive = crawl.irecv(np.zeros(1), comm.rank, 9)
        assert isinstance(receive, nic.LinkedReceive)
        header = receive.header
        crawl.nic.expected.clear()
        del receive
        if not any(each is header for each in kept):
            yield "the header of an abandoned receive is not kept"
        crawl.wait(crawl.isend(np.zeros(1), comm.rank, 9))
    finally:
        nic.keep = before


def patience(comm: LinkedCommunicator) -> Iterator[str]:
    """A message that is expected gets through, whatever else its receiver waits for."""
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    began = time.perf_counter()
    bold = linked(FAST, aborted=lambda: time.perf_counter() - began > 20)
    aside, out, into = bold.channel(0, counted=False), np.ones(1 << 20), np.zeros(1 << 20)
    try:
        first = bold.irecv(into, left, 1)
        bold.wait(bold.isend(out, right, 1))
        bold.wait(first)
        first = bold.irecv(into, left, 1)
        sending = bold.isend(out, right, 1)
        if bold.rank % 2:
            aside.wait(aside.iallreduce(np.zeros(1)))
            bold.wait(sending, first)
        else:
            bold.wait(sending)
            aside.wait(aside.iallreduce(np.zeros(1)))
            bold.wait(first)
    except Aborted as stuck:
        yield f"rank {comm.rank}: {stuck}"
    if comm.hosts() != tuple(range(comm.size)):
        yield f"the hosts of the network that is emulated are {comm.hosts()}"


def reduces(comm: LinkedCommunicator) -> Iterator[str]:
    """The library's own all-reduce takes a ring's time after the last has entered, two at once twice its bytes; housekeeping is free."""
    numbers = np.ones(BIG // 8)

    def late() -> None:
        if comm.rank == 0:
            time.sleep(0.01)
        comm.wait(comm.iallreduce(numbers))

    def two() -> None:
        comm.wait(comm.iallreduce(numbers), comm.iallreduce(numbers.copy()))

    one = Ring().seconds(BIG, comm.size, SLOW)
    yield from early("an all-reduce that one enters late", took(comm, late), 0.01 + one)
    yield from early("two all-reduces", took(comm, two), one + 2 * (comm.size - 1) / comm.size * BIG / SLOW.bandwidth)
    if not np.all(numbers == comm.size**2):
        yield f"the sum is {numbers[0]}"
    free = comm.nic.tx_free
    aside = comm.channel(0, counted=False)
    aside.wait(aside.iallreduce(numbers), aside.irecv(np.zeros(9), ANY), aside.isend(np.zeros(9), comm.rank))
    if comm.nic.tx_free != free or isinstance(aside, LinkedCommunicator):
        yield "housekeeping has taken the port"


def exchanges(comm: LinkedCommunicator) -> Iterator[str]:
    """A collective takes no less than its formula, also behind a rank that computes, where two share the port."""
    segments = [np.full(BIG // 4, float(comm.rank), np.float32) for _ in range(2)]
    plans = [Ring().plan(comm.channel(index), each) for index, each in enumerate(segments)]
    one = Ring().seconds(BIG, comm.size, SLOW)
    yield from early("a ring", took(comm, plans[0].run), one)

    def behind() -> None:
        under_way = [comm.follow(plan.steps()) for plan in plans]
        time.sleep(one)  # computes
        comm.wait(*under_way)

    hidden = comm.hidden_seconds
    yield from early("two rings at once", took(comm, behind), 2 * (comm.size - 1) / comm.size * 2 * BIG / SLOW.bandwidth)
    if comm.hidden_seconds - hidden < one / 2:
        yield f"{comm.hidden_seconds - hidden} s were hidden behind {one} s of work"
    if any(np.any(each != segments[0][0]) for each in segments):
        yield "the mean is not the mean"


def endings(comm: LinkedCommunicator) -> Iterator[str]:
    """An abort and a farewell end a wait for a message that is long under way."""
    began = time.perf_counter()
    crawl = Network(latency=0.0, bandwidth=100.0)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    told = linked(crawl, aborted=lambda: time.perf_counter() - began > 0.2)
    try:
        told.wait(told.irecv(np.zeros(10_000), left), told.isend(np.zeros(10_000), right))
        yield "800 seconds are over"
    except Aborted:
        pass
    lonely = linked(crawl)
    requests = lonely.irecv(np.zeros(1000), left), lonely.isend(np.zeros(1000), right)
    try:
        if lonely.rank == 0:
            lonely.farewell("ValueError: out of luck")
        else:
            lonely.wait(*requests)
            yield "80 seconds are over"
    except PeerLost as lost:
        if lost.rank != 0 or "out of luck" not in str(lost):
            yield f"the farewell arrived as {lost}"


def honesty(comm: LinkedCommunicator) -> Iterator[str]:
    """It says when this machine is too slow: beforehand, and once when messages that were waited for came late."""
    words: list[str] = []
    beyond = linked(Network(latency=1e-9, bandwidth=1e15), report=words.append)
    if "not 2 times the 1e+09 MB/s of the link" not in beyond.rehearse():
        yield f"nothing was said of a link of a petabyte a second: {beyond.rehearse()!r}"
    if comm.rehearse():
        yield f"this machine is said to move less than {SLOW.words}: {comm.rehearse()}"
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    for _ in range(3 * ENOUGH):
        arriving = beyond.irecv(np.zeros(10), left)
        if beyond.rank == 0:  # the others wait for what is on its way since then
            beyond.wait(beyond.isend(np.zeros(10), right), arriving)
        else:
            beyond.wait(arriving)
            beyond.wait(beyond.isend(np.zeros(10), right))
    if len(words) != 1 or "longer than they should" not in words[0]:
        yield f"of messages that came late was said: {words}"


def main() -> None:
    """Every law; the words of all ranks are gathered before anyone fails."""
    fast, slow = linked(FAST), linked()
    found = broken(fast, lengths=(0, 5, 1023, 20_003), count=1)
    for law in (messages, ends, bounds, groups):
        found += law(fast)
    for law in (one_port, order, probes, lateness, taking_the_port, abandoned, patience, reduces, exchanges, endings, honesty):
        found += law(slow)
    conclude(found, f"laws kept on {slow.size} ranks")


if __name__ == "__main__":
    main()
