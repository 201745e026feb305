"""Steps that go on while a rank computes: on virtual ranks against closed forms, and the progress of real ranks with requests from a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from workbench.collectives import PORTABLE, Collective, Ring
from workbench.comm.base import ANY, Communicator
from workbench.comm.network import Network
from workbench.comm.progress import Progress
from workbench.comm.virtual import VirtualWorld
from workbench.errors import Aborted, Deadlock, PeerLost
from workbench.wires import WIRES

NO_LATENCY = Network(latency=0.0, bandwidth=1e8)
READY = (0.03, 0.05, 0.06, 0.1)
NUMBERS = (400_000, 100_000, 700_000, 50_000)


def allowed(size: int) -> list[Collective]:
    found = []
    for made in PORTABLE.values():
        try:
            made().check(size)
        except ValueError:
            continue
        found.append(made())
    return found


def buckets(comm: Communicator, collective: Collective, numbers: tuple[int, ...], wire: str) -> tuple[list[np.ndarray], list[Any]]:
    arrays = [np.random.default_rng([comm.rank, k]).standard_normal(n).astype(np.float32) for k, n in enumerate(numbers)]
    return arrays, [collective.plan(comm.channel(k), array, wire) for k, array in enumerate(arrays)]


def overlapped(comm: Communicator, collective: Collective, numbers: tuple[int, ...] = NUMBERS, pieces: int = 1, wire: str = "float32") -> Any:
    """(bits, seconds, hidden seconds) of exchanges that begin while the rank computes; each stretch of computing is cut into pieces."""
    arrays, plans = buckets(comm, collective, numbers, wire)
    began, requests = comm.now(), []
    for seconds, plan in zip(np.diff([0.0, *READY]), plans, strict=True):
        for _ in range(pieces):
            comm.compute(seconds / pieces)
        requests.append(comm.follow(plan.steps()))
    comm.wait(*requests)
    return np.concatenate(arrays), comm.now() - began, comm.hidden_seconds


def one_after_the_other(comm: Communicator, collective: Collective, numbers: tuple[int, ...] = NUMBERS, wire: str = "float32") -> np.ndarray:
    arrays, plans = buckets(comm, collective, numbers, wire)
    for plan in plans:
        plan.run()
    return np.concatenate(arrays)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("wire", ["float32", "float16", "int8"])
def test_the_result_is_the_same_bits(size: int, wire: str) -> None:
    few = (1000, 1, 0, 333)
    for collective in allowed(size):
        try:
            collective.check_wire(WIRES[wire]())
        except ValueError:
            continue
        with_overlap = VirtualWorld(size).run(lambda comm, c=collective: overlapped(comm, c, few, wire=wire)[0])
        without = VirtualWorld(size).run(lambda comm, c=collective: one_after_the_other(comm, c, few, wire=wire))
        assert all(np.array_equal(a, b) for a, b in zip(with_overlap, without, strict=True)), collective


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_hidden_is_what_a_link_can_carry_meanwhile(size: int) -> None:
    """Links without latency are never idle while there is something to send: the end is the latest of ready + all that comes after it."""
    for collective in allowed(size):
        costs = [collective.seconds(4 * n, size, NO_LATENCY) for n in NUMBERS]
        if sum(collective.bytes_sent(4 * n, size) / size / NO_LATENCY.bandwidth for n in NUMBERS) < 0.99 * sum(costs):
            continue  # its ranks do not send all the time, so that exchanges fill each other's gaps
        closed = max(ready + sum(costs[k:]) for k, ready in enumerate(READY))
        for _, seconds, hidden in VirtualWorld(size, NO_LATENCY).run(lambda comm, c=collective: overlapped(comm, c)):
            assert seconds == pytest.approx(closed, rel=0.01), collective
            assert hidden + (seconds - READY[-1]) == pytest.approx(sum(costs), rel=0.01), collective


def test_a_rank_that_waits_for_nothing_hides_everything() -> None:
    network = Network(latency=1e-3, bandwidth=1e8)

    def body(comm: Communicator) -> tuple[float, float]:
        _, plans = buckets(comm, Ring(), (1000,), "float32")
        began = comm.now()
        request = comm.follow(plans[0].steps())
        comm.compute(1.0)
        comm.wait(request)
        return comm.now() - began, comm.hidden_seconds

    for seconds, hidden in VirtualWorld(4, network).run(body):
        assert seconds == pytest.approx(1.0)
        assert hidden == pytest.approx(Ring().seconds(4000, 4, network), rel=1e-6)


def test_a_rank_that_polls_hides_nothing() -> None:
    def body(comm: Communicator) -> float:
        _, plans = buckets(comm, Ring(), (1000,), "float32")
        request = comm.follow(plans[0].steps())
        while not comm.test(request):
            pass
        return comm.hidden_seconds

    assert VirtualWorld(3, Network(latency=1e-3, bandwidth=1e8)).run(body) == [0.0] * 3


def test_it_does_not_matter_into_how_many_pieces_computing_is_cut() -> None:
    network = Network(latency=1e-4, bandwidth=1e8)
    runs = [VirtualWorld(3, network).run(lambda comm, p=pieces: overlapped(comm, Ring(), pieces=p)) for pieces in (1, 1, 2, 7)]
    for run in runs[1:]:
        for (bits, seconds, hidden), (first_bits, first_seconds, first_hidden) in zip(run, runs[0], strict=True):
            assert np.array_equal(bits, first_bits)
            assert (seconds, hidden) == pytest.approx((first_seconds, first_hidden), rel=1e-9)


def test_it_goes_on_while_the_rank_waits_for_something_else_or_polls() -> None:
    """The chunks of a ring go on though one rank waits for a message, one for any, one polls."""

    def body(comm: Communicator) -> float:
        _, plans = buckets(comm, Ring(), (30_000,), "float32")
        other, told = comm.channel(1), np.zeros(1)
        comm.compute(1e-3 * comm.rank)
        request = comm.follow(plans[0].steps())
        if comm.rank == 0:  # says so only once its own exchange is over, which needs those of all
            comm.wait(request)
            comm.wait(*(other.isend(told, peer) for peer in (1, 2, 3)))
        elif comm.rank == 1:
            comm.wait(other.irecv(told, 0))
        elif comm.rank == 2:
            arriving = other.irecv(told, ANY)
            comm.wait_any(arriving, request)
            comm.wait(arriving)
        else:
            arriving = other.irecv(told, 0)
            while not comm.test(arriving):
                pass
        comm.wait(request)
        return comm.now()

    assert max(VirtualWorld(4, NO_LATENCY).run(body)) < 0.1


def test_it_goes_on_while_the_rank_only_polls() -> None:
    def body(comm: Communicator) -> float:
        _, plans = buckets(comm, Ring(), (30_000,), "float32")
        request = comm.follow(plans[0].steps())
        while not request.done:
            assert comm.test()
        return comm.now()

    for seconds in VirtualWorld(3, NO_LATENCY).run(body):
        assert seconds == pytest.approx(Ring().seconds(120_000, 3, NO_LATENCY), rel=0.01)


def test_polls_without_requests_end_too() -> None:
    """By what steps raise, which is told to whoever asks, by a deadlock, and by an abort."""

    def stuck(comm: Communicator) -> Iterator[tuple[Any, ...]]:
        yield (comm.irecv(np.zeros(1), 0, 5),)

    def failing(comm: Communicator) -> Iterator[tuple[Any, ...]]:
        yield (comm.irecv(np.zeros(1), comm.rank), comm.isend(np.zeros(1), comm.rank))
        raise RuntimeError("out of luck")

    def failed(comm: Communicator) -> None:
        request = comm.follow(failing(comm))
        while not request.done:
            comm.test()
        for ask in (comm.test, comm.wait):
            with pytest.raises(RuntimeError, match="out of luck"):
                ask(request)

    def polls(comm: Communicator) -> None:
        request = comm.follow(stuck(comm))
        while not request.done:
            comm.test()

    def idle(comm: Communicator) -> None:
        while comm.test():
            looks.append(None)

    looks: list[None] = []
    VirtualWorld(2).run(failed)
    with pytest.raises(Deadlock, match=r"irecv from rank 0 \(tag 5\)"):
        VirtualWorld(2).run(polls)
    with pytest.raises(Aborted):
        VirtualWorld(2, aborted=lambda: len(looks) > 5).run(idle)


def test_traffic_is_the_same_as_without() -> None:
    def counts(comm: Communicator) -> tuple[int, ...]:
        return comm.traffic.total_sent_bytes, comm.traffic.total_sent_messages, comm.traffic.received_bytes

    followed = VirtualWorld(4).run(lambda comm: (overlapped(comm, Ring()), counts(comm))[1])
    assert followed == VirtualWorld(4).run(lambda comm: (one_after_the_other(comm, Ring()), counts(comm))[1])


def test_what_steps_raise_is_raised_where_they_are_waited_for() -> None:
    def failing(comm: Communicator) -> Iterator[tuple[Any, ...]]:
        yield (comm.irecv(np.zeros(1), 1 - comm.rank), comm.isend(np.zeros(1), 1 - comm.rank))
        raise RuntimeError("out of luck")

    def body(comm: Communicator) -> bool:
        request = comm.follow(failing(comm))
        comm.compute(1.0)  # it fails meanwhile, and nobody is told yet
        with pytest.raises(RuntimeError, match="out of luck"):
            comm.wait(request)
        return request.done

    assert VirtualWorld(2).run(body) == [True, True]


def test_a_deadlock_names_what_is_followed() -> None:
    def stuck(comm: Communicator) -> Iterator[tuple[Any, ...]]:
        yield (comm.irecv(np.zeros(1), 0, 5),)

    def body(comm: Communicator) -> None:
        if comm.rank == 1:
            request = comm.follow(stuck(comm))
            comm.compute(1.0)
            comm.wait(request)

    with pytest.raises(Deadlock, match=r"rank 1: wait\(irecv from rank 0 \(tag 5\)\)"):
        VirtualWorld(2).run(body)


def test_a_rank_that_fails_ends_those_that_follow() -> None:
    seen = []

    def body(comm: Communicator) -> None:
        _, plans = buckets(comm, Ring(), (100_000,), "float32")
        request = comm.follow(plans[0].steps())
        if comm.rank == 2:
            comm.compute(1e-4)
            raise RuntimeError("out of luck")
        try:
            comm.compute(1.0)
            comm.wait(request)
        except PeerLost as lost:
            seen.append(lost.rank)
            raise

    with pytest.raises(RuntimeError, match="out of luck"):
        VirtualWorld(4).run(body)
    assert seen == [2, 2, 2]


def test_an_abort_ends_a_rank_that_computes_while_something_is_under_way() -> None:
    told = threading.Event()

    def body(comm: Communicator) -> None:
        _, plans = buckets(comm, Ring(), (100_000,), "float32")
        request = comm.follow(plans[0].steps())
        told.set()
        comm.compute(1.0)
        comm.wait(request)

    with pytest.raises(Aborted):
        VirtualWorld(2, aborted=told.is_set).run(body)


# -- the progress of real ranks ------------------------------------------------------------------------------------


class Scripted:
    """A request that is complete when the test says so."""

    def __init__(self) -> None:
        self.done, self.source, self.complete, self.error = False, ANY, False, None

    def test(self) -> bool:
        if self.error is not None:
            raise self.error
        self.done = self.complete
        return self.done


def until(what: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(1e-3)


def exchange_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "exchange"]


def script(requests: list[Scripted], seen: list[int]) -> Iterator[tuple[Any, ...]]:
    for number, request in enumerate(requests):
        yield (request,)
        seen.append(number)


@pytest.fixture
def progress() -> Iterator[Progress]:
    made = Progress(lambda: False, lambda: None)
    yield made
    made.drop()
    until(lambda: not exchange_threads())


def test_the_thread_carries_on_while_the_rank_does_something_else(progress: Progress) -> None:
    requests, seen = [Scripted(), Scripted()], []
    followed = progress.follow(script(requests, seen))
    assert not followed.test()
    for number, request in enumerate(requests):
        request.complete = True
        until(lambda n=number: n in seen)
    until(lambda: followed.done)
    assert followed.test()
    assert progress.hidden_seconds > 0
    hidden = progress.hidden_seconds
    time.sleep(0.01)
    assert progress.hidden_seconds == hidden, "nothing is under way any more"


def test_time_in_which_the_rank_waits_is_not_hidden_and_the_thread_keeps_still(progress: Progress) -> None:
    request, seen = Scripted(), []
    followed = progress.follow(script([request], seen))
    progress.waits(True)
    time.sleep(0.01)  # the thread may be at its last look
    hidden, request.complete = progress.hidden_seconds, True
    time.sleep(0.02)
    assert not seen
    assert progress.hidden_seconds == hidden
    progress.carry_on(besides=(followed,))
    assert not seen
    progress.carry_on()
    assert seen == [0]
    progress.waits(False)
    assert progress.hidden_seconds == hidden


def test_what_the_rank_does_for_an_exchange_itself_is_not_hidden(progress: Progress) -> None:
    told, blocker = [], Scripted()

    def slow() -> Iterator[tuple[Any, ...]]:
        told.append(progress.hidden_seconds)
        time.sleep(0.01)
        told.append(progress.hidden_seconds)
        yield (blocker,)

    progress.follow(script([Scripted()], []))
    progress.follow(slow())
    assert told[0] == told[1]
    until(lambda: progress.hidden_seconds > told[1])


def test_the_thread_stays_for_the_next_exchange(progress: Progress) -> None:
    threads = set()
    for _ in range(3):
        blocker = Scripted()
        followed = progress.follow(script([blocker], []))
        threads.update(exchange_threads())
        progress.waits(True)
        time.sleep(0.01)
        blocker.complete = True
        assert followed.test()
        progress.waits(False)
        time.sleep(0.01)
    assert len(threads) == 1


def test_steps_begin_on_the_thread_that_calls(progress: Progress) -> None:
    begun, blocker = [], Scripted()

    def noting(number: int) -> Iterator[tuple[Any, ...]]:
        begun.append((number, threading.current_thread() is threading.main_thread()))
        yield (blocker,)

    for number in range(50):
        progress.follow(noting(number))
    assert begun == [(number, True) for number in range(50)]


def test_an_error_is_kept_for_whoever_waits(progress: Progress) -> None:
    request = Scripted()
    followed = progress.follow(script([request], []))
    request.error = RuntimeError("out of luck")
    until(lambda: followed.done)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            followed.test()


def test_what_is_dropped_says_so_and_nothing_is_begun_any_more(progress: Progress) -> None:
    followed = progress.follow(script([Scripted()], []))
    assert exchange_threads()
    progress.drop()
    with pytest.raises(Aborted, match="the run has ended"):
        followed.test()
    with pytest.raises(Aborted, match="the run has ended"):
        progress.follow(script([], []))
    until(lambda: not exchange_threads(), 0.5)


def test_an_abort_ends_what_is_under_way() -> None:
    told = threading.Event()
    progress = Progress(told.is_set, lambda: None)
    followed = progress.follow(script([Scripted()], []))
    told.set()
    until(lambda: followed.done)
    with pytest.raises(Aborted):
        followed.test()
    until(lambda: not exchange_threads())
