"""What virtual ranks promise: the clock of the formulas, links that are shared, causality, strictness, and a clean end."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from workbench.comm.base import ANY, Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.errors import Aborted, Deadlock, PeerLost

NETWORK = Network(latency=1e-4, bandwidth=1e6)
L, B = NETWORK.latency, NETWORK.bandwidth


def zeros(n: int = 1) -> np.ndarray:
    return np.zeros(n, np.float32)


def run(size: int, body: Any, network: Network | str = NETWORK, **options: Any) -> list[Any]:
    return VirtualWorld(size, network, **options).run(body)


def ring(comm: Communicator, x: np.ndarray) -> None:
    size, rank = comm.size, comm.rank
    chunks, right, left = np.array_split(x, size), (rank + 1) % size, (rank - 1) % size
    work = zeros(-(-x.size // size))
    for hop in range(size - 1):
        mine = chunks[(rank - hop - 1) % size]
        comm.wait(comm.isend(chunks[(rank - hop) % size], right), comm.irecv(work[: mine.size], left))
        mine += work[: mine.size]
    for hop in range(size - 1):
        comm.wait(comm.isend(chunks[(rank + 1 - hop) % size], right), comm.irecv(chunks[(rank - hop) % size], left))


# -- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 64])
def test_a_ring_takes_what_its_formula_says(size: int) -> None:
    def body(comm: Communicator) -> bool:
        x = np.full(size * 100, float(comm.rank), np.float32)
        ring(comm, x)
        return bool((x == size * (size - 1) / 2).all())

    world = VirtualWorld(size, NETWORK)
    assert all(world.run(body))
    assert world.seconds == pytest.approx(2 * (size - 1) * (L + 400 / B), rel=1e-9, abs=0)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_an_allreduce_is_charged_from_when_the_last_rank_enters(size: int) -> None:
    def body(comm: Communicator) -> float:
        comm.compute(comm.rank * 0.5)
        buffer = np.full(1000, comm.rank, np.float32)
        request = comm.iallreduce(buffer)
        comm.compute(0.0001)
        comm.wait(request)
        assert (buffer == size * (size - 1) / 2).all()
        return comm.now()

    last = (size - 1) * 0.5
    expected = last + max(0.0001, 2 * (size - 1) * (L + 4000 / size / B))
    assert run(size, body) == pytest.approx([expected] * size, rel=1e-12)


def test_messages_to_one_rank_share_its_link_and_so_do_those_from_it() -> None:
    """A parameter server's round: P pushes arrive one after the other, P replies leave one after the other."""

    def body(comm: Communicator) -> float:
        x = zeros(1000)
        if comm.rank == 0:
            inbox = [zeros(1000) for _ in range(comm.size - 1)]
            comm.wait(*(comm.irecv(box, peer + 1) for peer, box in enumerate(inbox)))
            arrived = comm.now()
            comm.wait(*(comm.isend(x, peer) for peer in range(1, comm.size)))
            return arrived
        comm.wait(comm.isend(x, 0))
        comm.wait(comm.irecv(x, 0))
        return comm.now()

    for workers in (1, 2, 7):
        pushed, *pulled = run(workers + 1, body)
        seconds = 4000 / B
        assert pushed == pytest.approx(L + workers * seconds, rel=1e-12)
        assert pulled == pytest.approx([pushed + L + (worker + 1) * seconds for worker in range(workers)], rel=1e-12)


def test_a_pair_talks_both_ways_at_once() -> None:
    def body(comm: Communicator) -> float:
        comm.wait(comm.isend(zeros(1000), 1 - comm.rank), comm.irecv(zeros(1000), 1 - comm.rank))
        return comm.now()

    assert run(2, body) == pytest.approx([L + 4000 / B] * 2, rel=1e-12)


def test_a_send_hides_behind_compute_but_the_next_one_queues_behind_it() -> None:
    def body(comm: Communicator) -> float:
        if comm.rank == 0:
            requests = [comm.isend(zeros(1000), 1, tag) for tag in range(2)]
            comm.compute(1.0)
            comm.wait(*requests)
        else:
            comm.wait(comm.irecv(zeros(1000), 0, 0), comm.irecv(zeros(1000), 0, 1))
        return comm.now()

    assert run(2, body) == pytest.approx([1.0, L + 2 * 4000 / B], rel=1e-12)


def test_arrivals_are_served_in_the_order_in_which_they_were_sent() -> None:
    """Rank 1 runs first but sends last; its long message must not hold up the one that was sent before."""

    def body(comm: Communicator) -> list[float]:
        if comm.rank == 0:
            times = []
            requests = [comm.irecv(zeros(100_000), 1), comm.irecv(zeros(1), 2)]
            for _ in range(2):
                comm.wait_any(*[request for request in requests if not request.done])  # type: ignore[attr-defined]
                times.append(comm.now())
            return times
        comm.compute(0.2 / comm.rank)
        comm.wait(comm.isend(zeros(100_000 if comm.rank == 1 else 1), 0))
        return []

    assert run(3, body)[0] == pytest.approx([0.1 + L + 4 / B, 0.2 + L + 400_000 / B], rel=1e-12)


def test_what_happens_does_not_depend_on_the_machine() -> None:
    """Random traffic with receives from ANY, polls and late ranks: the same to the last bit, however long the ranks really take."""

    def history(slow: int | None) -> list[Any]:
        def body(comm: Communicator) -> list[Any]:
            random = np.random.default_rng(comm.rank)
            seen: list[Any] = []
            for turn in range(12):
                comm.compute(float(random.exponential(1e-3)))
                if comm.rank == slow:
                    time.sleep(0.002)
                peers = random.permutation(comm.size)
                comm.channel(turn)
                outgoing = [comm.isend(np.full(int(random.integers(1, 300)), comm.rank, np.float32), int(peer)) for peer in peers]
                boxes = [zeros(300) for _ in peers]
                incoming = [comm.irecv(box, ANY) for box in boxes]
                while not comm.test(*incoming):
                    pass
                seen += [request.source for request in incoming]
                comm.wait(*outgoing)
                seen.append(comm.now())
            return seen

        return run(5, body)

    assert history(None) == history(None) == history(0) == history(4)


# -- causality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [1, 2, 3])
def test_any_takes_what_comes_first_in_virtual_time(late: int) -> None:
    def body(comm: Communicator) -> list[int]:
        if comm.rank == 0:
            order = []
            for _ in range(comm.size - 1):
                request = comm.irecv(zeros(), ANY)
                comm.wait(request)
                order.append(request.source)
            return order
        comm.compute(10.0 if comm.rank == late else comm.rank * 1.0)
        comm.wait(comm.isend(zeros(), 0))
        return []

    others = [rank for rank in (1, 2, 3) if rank != late]
    assert run(4, body)[0] == [*others, late]


def test_posted_receives_take_messages_in_the_order_in_which_they_were_posted() -> None:
    def body(comm: Communicator) -> list[int]:
        if comm.rank == 0:
            first, second, third = comm.irecv(zeros(), 2), comm.irecv(zeros(), ANY), comm.irecv(zeros(), ANY)
            comm.wait(first, second, third)
            return [first.source, second.source, third.source]
        for _ in range(2 if comm.rank == 2 else 1):
            comm.compute(1.0 if comm.rank == 2 else 5.0)
            comm.wait(comm.isend(zeros(), 0))
        return []

    assert run(3, body)[0] == [2, 2, 1]


def test_the_sender_goes_on_when_any_takes_its_message_not_when_the_receiver_looks() -> None:
    def body(comm: Communicator) -> float:
        if comm.rank == 0:
            request = comm.irecv(zeros(), ANY)
            comm.compute(100.0)
            comm.wait(request)
        else:
            comm.compute(1.0)
            comm.wait(comm.isend(zeros(), 0))
        return comm.now()

    assert run(2, body) == pytest.approx([100.0, 1.0 + 4 / B])


def test_messages_do_not_overtake_each_other() -> None:
    def body(comm: Communicator) -> list[float]:
        if comm.rank == 0:
            comm.wait(*(comm.isend(np.full(1000 if n == 0 else 1, n, np.float32), 1) for n in range(5)))
            return []
        got = []
        for _ in range(5):
            box = zeros(1000)
            comm.wait(comm.irecv(box, 0))
            got.append(float(box[0]))
        return got

    assert run(2, body)[1] == [0, 1, 2, 3, 4]


def test_a_probe_sees_a_message_once_it_has_arrived_and_not_before() -> None:
    def body(comm: Communicator) -> list[bool]:
        if comm.rank == 1:
            comm.wait(comm.isend(zeros(1000), 0, tag=7))
            return []
        before = comm.iprobe(tag=7)
        comm.compute(L + 3000 / B)
        meanwhile = comm.iprobe(tag=7)
        comm.compute(1000 / B)
        after = [comm.iprobe(1, 7), comm.iprobe(ANY, 7), comm.iprobe(1, 8), comm.iprobe(0, 7)]
        comm.wait(comm.irecv(zeros(1000), 1, 7))
        return [before, meanwhile, *after, comm.iprobe(1, 7)]

    assert run(2, body)[0] == [False, False, True, True, False, False, False]


def test_a_loop_of_polls_lets_time_go_on_and_ends_with_the_event() -> None:
    def body(comm: Communicator) -> tuple[int, float]:
        polls = 0
        if comm.rank == 0:
            request = comm.irecv(zeros(), 1)
            while not comm.test(request):
                polls += 1
        else:
            comm.compute(3.0)
            comm.wait(comm.isend(zeros(), 0))
        return polls, comm.now()

    (polls, seconds), _ = run(2, body)
    assert polls < 100
    assert seconds == pytest.approx(3.0 + L + 4 / B, abs=1e-5)


def test_a_poll_between_pieces_of_work_costs_next_to_nothing() -> None:
    def body(comm: Communicator) -> float:
        if comm.rank == 0:
            request = comm.irecv(zeros(), 1)
            for _ in range(1000):
                comm.compute(1e-3)
                comm.test(request)
            comm.wait(request)
        else:
            comm.compute(0.5)
            comm.wait(comm.isend(zeros(), 0))
        return comm.now()

    assert run(2, body)[0] == pytest.approx(1.0, rel=2e-3)


def test_wait_any_gives_the_request_that_completes_first() -> None:
    def body(comm: Communicator) -> list[int]:
        if comm.rank == 0:
            requests = [comm.irecv(zeros(), peer) for peer in (1, 2, 3)]
            order = []
            while requests:
                index = comm.wait_any(*requests)
                order.append(requests.pop(index).source)
            return order
        comm.compute({1: 3.0, 2: 1.0, 3: 2.0}[comm.rank])
        comm.wait(comm.isend(zeros(), 0))
        return []

    assert run(4, body)[0] == [2, 3, 1]


# -- matching --------------------------------------------------------------------------------------------------------


def test_tags_and_channels_keep_messages_apart() -> None:
    def body(comm: Communicator) -> list[float]:
        one, two, again = comm.channel(1), comm.channel(2), comm.channel(1)
        ways = [(comm, 0), (comm, 1), (one, 0), (two, 0), (again, 0)]
        if comm.rank == 0:
            comm.wait(*(way.isend(np.full(1, n, np.float32), 1, tag) for n, (way, tag) in enumerate(ways)))
            return []
        got = []
        for way, tag in reversed(ways):
            box = zeros()
            comm.wait(way.irecv(box, 0, tag))
            got.append(float(box[0]))
        return got

    assert run(2, body)[1] == [4, 3, 2, 1, 0]


def test_split_makes_worlds_of_their_own_in_the_order_of_the_key() -> None:
    def body(comm: Communicator) -> tuple[int, int, float, int]:
        part = comm.split(comm.rank % 2, key=-comm.rank)
        total = np.array([comm.rank], np.int64)
        part.wait(part.iallreduce(total))
        box = zeros()
        part.wait(part.isend(np.full(1, comm.rank, np.float32), (part.rank + 1) % part.size), part.irecv(box, (part.rank - 1) % part.size))
        assert part.traffic is comm.traffic
        return part.rank, part.size, float(box[0]), int(total[0])

    assert run(5, body) == [(2, 3, 2.0, 6), (1, 2, 3.0, 4), (1, 3, 4.0, 6), (0, 2, 1.0, 4), (0, 3, 0.0, 6)]


def test_a_shorter_message_is_fine_and_a_longer_one_names_both() -> None:
    def body(sent: int) -> Any:
        def both(comm: Communicator) -> list[float]:
            box = np.full(4, -1, np.float32)
            if comm.rank == 0:
                comm.wait(comm.isend(np.arange(sent, dtype=np.float32), 1, tag=3))
            else:
                comm.wait(comm.irecv(box, 0, tag=3))
            return box.tolist()

        return both

    assert run(2, body(2))[1] == [0, 1, -1, -1]
    with pytest.raises(ValueError, match=r"rank 0 sent 5 float32 \(tag 3\) to rank 1, whose buffer holds 4 float32"):
        run(2, body(5))


def test_a_message_of_another_dtype_is_an_error() -> None:
    def body(comm: Communicator) -> None:
        if comm.rank == 0:
            comm.wait(comm.isend(np.zeros(2, np.float64), 1))
        else:
            comm.wait(comm.irecv(zeros(4), 0))

    with pytest.raises(ValueError, match=r"rank 0 sent 2 float64 .*to rank 1, whose buffer holds 4 float32"):
        run(2, body)


def test_a_send_takes_what_is_in_the_buffer_when_it_is_received() -> None:
    """Stricter than MPI: who changes a buffer before `wait` has said that it may sends the changed numbers."""

    def body(comm: Communicator) -> float:
        box = zeros()
        if comm.rank == 0:
            request = comm.isend(box, 1)
            box[0] = 7
            comm.wait(request)
        else:
            comm.compute(1.0)
            comm.wait(comm.irecv(box, 0))
        return float(box[0])

    assert run(2, body) == [7, 7]


@pytest.mark.parametrize(("op", "expected"), [("sum", 10), ("min", 1), ("max", 4)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint16", "uint8"])
def test_allreduce_combines(op: Any, expected: int, dtype: str) -> None:
    def body(comm: Communicator) -> list[int]:
        buffer = np.full((2, 3), comm.rank + 1, dtype)
        comm.wait(comm.iallreduce(buffer, op))
        return buffer.ravel().tolist()

    assert run(4, body) == [[expected] * 6] * 4


def test_allreduce_gives_the_same_bits_to_all() -> None:
    def body(comm: Communicator) -> bytes:
        buffer = np.random.default_rng(comm.rank).standard_normal(1001).astype(np.float32)
        comm.wait(comm.iallreduce(buffer))
        return buffer.tobytes()

    assert len(set(run(7, body))) == 1


def test_allreduces_that_differ_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"rank 1 enters iallreduce of 3 float32, op 'sum', where rank 0 has entered iallreduce of 2 float32"):
        run(2, lambda comm: comm.wait(comm.iallreduce(zeros(2 + comm.rank))))


def test_traffic_is_counted_by_peer_of_the_world() -> None:
    def body(comm: Communicator) -> Any:
        part = comm.split(comm.rank % 2)
        if part.rank == 0:
            comm.wait(part.isend(zeros(10), 1))
        else:
            comm.wait(part.irecv(zeros(25), 0))
        traffic = comm.traffic
        return traffic.sent_bytes, traffic.sent_messages, traffic.received_bytes, traffic.total_sent_bytes

    assert run(4, body) == [
        ([0, 0, 40, 0], [0, 0, 1, 0], 0, 40),
        ([0, 0, 0, 40], [0, 0, 0, 1], 0, 40),
        ([0] * 4, [0] * 4, 40, 0),
        ([0] * 4, [0] * 4, 40, 0),
    ]


def test_a_rank_can_send_to_itself_and_that_takes_no_time() -> None:
    def body(comm: Communicator) -> tuple[float, float]:
        box = zeros()
        comm.wait(comm.isend(np.ones(1, np.float32), 0), comm.irecv(box, ANY))
        return float(box[0]), comm.now()

    assert run(1, body) == [(1.0, 0.0)]


def test_nothing_to_wait_for_is_no_wait() -> None:
    def body(comm: Communicator) -> float:
        comm.wait()
        assert comm.test()
        request = comm.iallreduce(zeros())
        comm.wait(request)
        comm.wait(request)
        assert comm.test(request)
        return comm.now()

    assert run(1, body) == [0.0]


# -- strictness ------------------------------------------------------------------------------------------------------


def test_two_sends_that_wait_for_each_other_are_a_deadlock() -> None:
    def body(comm: Communicator) -> None:
        comm.wait(comm.isend(zeros(), 1 - comm.rank, tag=5))
        comm.wait(comm.irecv(zeros(), 1 - comm.rank, tag=5))

    with pytest.raises(Deadlock) as caught:
        run(2, body)
    assert "rank 0: wait(isend to rank 1 (tag 5) that is not received)" in str(caught.value)
    assert "rank 1: wait(isend to rank 0 (tag 5) that is not received)" in str(caught.value)


def test_a_cycle_of_receives_is_a_deadlock_that_names_channels() -> None:
    def body(comm: Communicator) -> None:
        way = comm.channel(4)
        way.wait(way.irecv(zeros(), (comm.rank + 1) % 3, tag=9), way.irecv(zeros(), ANY))

    with pytest.raises(Deadlock, match=r"rank 2: wait\(irecv from rank 0 \(tag 9, channel 4\); irecv from any rank \(tag 0, channel 4\)\)"):
        run(3, body)


def test_a_rank_that_has_returned_is_named_by_those_who_wait_for_it() -> None:
    def body(comm: Communicator) -> None:
        if comm.rank == 1:
            return
        comm.wait(comm.iallreduce(zeros())) if comm.rank == 0 else comm.wait_any(comm.irecv(zeros(), 1))

    with pytest.raises(Deadlock) as caught:
        run(3, body)
    text = str(caught.value)
    assert "rank 0: wait(iallreduce that rank 1, rank 2 did not enter)" in text
    assert "rank 1: has returned" in text
    assert "rank 2: wait_any(irecv from rank 1 (tag 0))" in text


def test_polling_for_what_nobody_can_bring_is_a_deadlock() -> None:
    def body(comm: Communicator) -> None:
        if comm.rank == 0:
            request = comm.irecv(zeros(), 1, tag=2)
            while not comm.test(request):
                pass

    with pytest.raises(Deadlock, match=r"rank 0 polls for what no rank can bring any more: irecv from rank 1 \(tag 2\)"):
        run(2, body)


def test_two_ranks_that_poll_for_each_other_are_a_deadlock_too() -> None:
    def body(comm: Communicator) -> None:
        while not comm.iprobe(1 - comm.rank):
            pass

    with pytest.raises(Deadlock, match=r"rank \d polls for .*iprobe of rank \d \(tag 0\)"):
        run(2, body)


def test_a_deadlock_of_many_ranks_stays_readable() -> None:
    with pytest.raises(Deadlock, match="and 47 more ranks") as caught:
        run(64, lambda comm: comm.rank == 3 or comm.wait(comm.irecv(zeros(), 3)))
    assert "rank 3: has returned" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 30


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (lambda comm: comm.isend(zeros(), 2), r"isend\(dest=2\): dest must be a rank in \[0, 1\], got 2"),
        (lambda comm: comm.isend(zeros(), ANY), "dest must be a rank"),
        (lambda comm: comm.irecv(zeros(), -2), "source must be a rank in .* or ANY, got -2"),
        (lambda comm: comm.iprobe(9), "source must be a rank in .* or ANY, got 9"),
        (lambda comm: comm.isend(np.zeros(2, np.complex64), 0), "takes float64, .* got .*complex64"),
        (lambda comm: comm.irecv(np.zeros((4, 4), np.float32)[:, 0], 0), "contiguous"),
        (lambda comm: comm.irecv(np.frombuffer(b"1234", np.float32), 0), "read-only"),
        (lambda comm: comm.compute(-1.0), "compute.*at least 0, got -1.0"),
        (lambda comm: comm.compute(float("nan")), "finite"),
        (lambda comm: comm.wait_any(), "at least one request"),
        (lambda comm: comm.split(-1), "color must be"),
    ],
)
def test_wrong_arguments_are_named(verb: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(2, verb)


@pytest.mark.parametrize(
    ("options", "words"), [({"size": 0}, "size must be a whole number of at least 1, got 0"), ({"pace": "slow"}, "'fast' or 'real'")]
)
def test_a_wrong_world_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VirtualWorld(**{"size": 2, **options})
    with pytest.raises(ValueError, match="unknown network '2G'"):
        VirtualWorld(2, "2G")


# -- ends ------------------------------------------------------------------------------------------------------------


def test_an_exception_ends_the_world_and_names_its_rank() -> None:
    told: dict[int, BaseException] = {}

    def body(comm: Communicator) -> None:
        if comm.rank == 2:
            raise ZeroDivisionError("the reason")
        try:
            comm.compute(1.0)
            comm.wait(comm.irecv(zeros(), ANY))
        except PeerLost as error:
            told[comm.rank] = error
            with pytest.raises(PeerLost):  # and again: nothing more can be done in this world
                comm.wait(comm.irecv(zeros(), 0))
            raise

    world = VirtualWorld(4, NETWORK)
    with pytest.raises(ZeroDivisionError, match="the reason") as caught:
        world.run(body)
    assert caught.value.__notes__ == ["on virtual rank 2"]
    assert world.failed_rank == 2
    assert set(told) == {0, 1, 3}
    assert "rank 2 is lost: it ended with ZeroDivisionError: the reason" in str(told[0])


def test_a_farewell_reaches_the_others() -> None:
    def body(comm: Communicator) -> str:
        if comm.rank == 0:
            comm.farewell("the disk is full")
            return ""
        try:
            comm.wait(comm.irecv(zeros(), 0))
        except PeerLost as error:
            return str(error)
        return "nothing was said"

    assert run(3, body)[1:] == ["rank 0 is lost: the disk is full"] * 2


def test_an_abort_wakes_every_rank() -> None:
    flag = threading.Event()
    woken: list[int] = []

    def body(comm: Communicator) -> None:
        try:
            if comm.rank == 0:
                for _ in range(10_000):
                    comm.compute(1.0)
                    time.sleep(0.001)
            comm.wait(comm.irecv(zeros(), 0))
        except Aborted:
            woken.append(comm.rank)
            raise

    timer = threading.Timer(0.1, flag.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Aborted):
        run(5, body, aborted=flag.is_set)
    assert sorted(woken) == [0, 1, 2, 3, 4]
    assert time.monotonic() - start < 5


def test_real_pace_sleeps_until_virtual_time_and_can_be_aborted() -> None:
    def body(comm: Communicator) -> None:
        for _ in range(3):
            comm.compute(0.05 * (comm.rank + 1))

    start = time.monotonic()
    run(2, body, pace="real")
    assert 0.3 <= time.monotonic() - start < 3

    flag = threading.Event()
    timer = threading.Timer(0.1, flag.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Aborted):
        run(2, lambda comm: comm.compute(1000.0), pace="real", aborted=flag.is_set)
    assert time.monotonic() - start < 5


def test_the_process_is_as_before() -> None:
    before = sys.getswitchinterval(), threading.stack_size(), threading.active_count(), np.random.get_state()[1].tolist()
    run(8, lambda comm: (np.random.rand(), ring(comm, zeros(64))))
    with pytest.raises(Deadlock):
        run(3, lambda comm: comm.wait(comm.irecv(zeros(), ANY)))
    after = sys.getswitchinterval(), threading.stack_size(), threading.active_count(), np.random.get_state()[1].tolist()
    assert before == after


def test_a_rank_keeps_its_random_numbers_whatever_the_others_draw() -> None:
    torch = pytest.importorskip("torch")

    def numbers(size: int) -> list[Any]:
        def body(comm: Communicator) -> list[Any]:
            torch.manual_seed(comm.rank)
            np.random.seed(comm.rank)
            dropout = torch.nn.Dropout(0.5)
            seen: list[Any] = []
            for turn in range(5):
                comm.compute(1.0 + (comm.rank + turn) % 3)
                seen += [dropout(torch.ones(20)).tolist(), np.random.rand()]
            return seen

        return run(size, body)

    everyone = numbers(4)
    assert everyone[0] == numbers(1)[0]
    assert everyone[1] == numbers(2)[1]
    assert everyone[0] != everyone[1]


def test_grad_mode_stays_with_its_rank() -> None:
    torch = pytest.importorskip("torch")

    def body(comm: Communicator) -> bool:
        if comm.rank == 0:
            with torch.no_grad():
                comm.wait(comm.irecv(zeros(), 1))
                return not torch.is_grad_enabled()
        enabled = torch.is_grad_enabled()
        comm.wait(comm.isend(zeros(), 0))
        return bool(enabled)

    assert run(2, body) == [True, True]


def test_what_a_rank_waits_for_can_be_seen_from_outside() -> None:
    seen: list[Any] = []

    def body(comm: Communicator) -> None:
        if comm.rank == 0:
            beacons.append(comm.beacon)
            comm.compute(2.0)
            comm.wait(comm.irecv(zeros(), 1, 3))
        else:
            comm.compute(5.0)
            seen.append((beacons[0].operation, beacons[0].since))
            comm.wait(comm.isend(zeros(), 0, 3))

    beacons: list[Any] = []
    run(2, body)
    assert seen == [("irecv from rank 1 (tag 3)", 2.0)]
    assert beacons[0].operation is None


def test_channels_share_one_order_of_collectives() -> None:
    """As on MPI, where they are one communicator; there a mixed-up order would mix up sums without a word."""

    def body(comm: Communicator) -> None:
        one, two = comm.channel(1), comm.channel(2)
        first, second = (one, two) if comm.rank == 0 else (two, one)
        comm.wait(first.iallreduce(np.zeros(1)), second.iallreduce(np.zeros(1)))

    with pytest.raises(ValueError, match=r"rank 1 enters .*channel 2, where rank 0 has entered .*channel 1"):
        VirtualWorld(2, Network()).run(body)


def test_housekeeping_is_free() -> None:
    def body(comm: Communicator) -> tuple[float, int]:
        aside = comm.channel(0, counted=False)
        comm.wait(aside.iallreduce(np.zeros(1000)))
        return comm.now(), comm.traffic.total_sent_bytes

    assert VirtualWorld(4, Network()).run(body) == [(0.0, 0)] * 4


# -- waits with an end, and the end of all ------------------------------------------------------------------------------


def test_a_wait_ends_at_its_end_or_when_something_is_complete_before() -> None:
    def body(comm: Communicator) -> list[Any]:
        if comm.rank == 1:
            comm.compute(0.5)
            comm.wait(comm.isend(zeros(1000), 0))
            return [comm.beacon.waited]
        arriving, never = comm.irecv(zeros(1000), ANY), comm.irecv(zeros(), 1, tag=9)
        seen = [(comm.wait_any(never, arriving, until=until), comm.now()) for until in (0.2, 0.2 + 1e-9, 10.0, None)]
        return [*seen, comm.beacon.waited]

    there = 0.5 + L + 4000 / B
    (*seen, waited), (left,) = run(2, body)
    assert [index for index, _ in seen] == [-1, -1, 1, 1]
    assert [when for _, when in seen] == [0.2, 0.2 + 1e-9, pytest.approx(there, rel=1e-12), pytest.approx(there, rel=1e-12)]
    assert waited == pytest.approx(there, rel=1e-12)
    assert left == pytest.approx(4000 / B, rel=1e-12)


def test_a_wait_with_an_end_lets_what_is_followed_go_on() -> None:
    """Steps whose requests complete before, at and after the end are carried on at their times."""

    def body(comm: Communicator) -> list[float]:
        times: list[float] = []

        def steps() -> Any:
            for _ in range(3):
                yield comm.isend(zeros(1000), 1 - comm.rank, 1), comm.irecv(zeros(1000), 1 - comm.rank, 1)
                times.append(comm.now())

        followed = comm.follow(steps())
        never = comm.irecv(zeros(), 1 - comm.rank)
        assert comm.wait_any(never, until=2 * (L + 4000 / B)) == -1
        assert len(times) == 2
        assert comm.wait_any(never, followed, until=1.0) == 1
        return [*times, comm.now()]

    one = L + 4000 / B
    assert run(2, body) == [pytest.approx([one, 2 * one, 3 * one, 3 * one], rel=1e-12)] * 2


def test_a_wait_whose_end_is_past_is_a_poll() -> None:
    """It finds what is complete now, costs as little as a poll, and a loop of it neither stops the clock nor hides a deadlock."""

    def body(comm: Communicator) -> float:
        if comm.rank == 1:
            comm.compute(0.5)
            comm.wait(comm.isend(zeros(), 0))
            return comm.now()
        receive = comm.irecv(zeros(), ANY)
        assert comm.wait_any(receive, until=-np.inf) == -1
        assert comm.now() <= 1e-6
        comm.compute(1.0)
        before = comm.now()
        assert comm.wait_any(receive, until=-np.inf) == 0
        assert comm.now() == before
        comm.wait(comm.isend(zeros(), 0), receive := comm.irecv(zeros(), ANY))
        return comm.now() - before

    assert run(2, body)[0] == 0.0

    def spin(comm: Communicator) -> None:
        receive = comm.irecv(zeros(), 1 - comm.rank)
        while comm.wait_any(receive, until=comm.now()) < 0:
            pass

    with pytest.raises(Deadlock, match=r"rank \d polls for what no rank can bring any more: irecv from rank \d"):
        run(2, spin)
    with pytest.raises(ValueError, match=r"wait_any\(until=nan\): until must be seconds of this rank's clock"):
        run(1, lambda comm: comm.wait_any(comm.irecv(zeros(), 0), until=float("nan")))
    with pytest.raises(Deadlock, match=r"wait_any\(irecv from rank 0"):
        run(1, lambda comm: comm.wait_any(comm.irecv(zeros(), 0), until=np.inf))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_everyone_is_complete_when_the_last_has_come_and_costs_nothing(size: int) -> None:
    def body(comm: Communicator) -> tuple[float, float, int]:
        comm.compute(float(comm.rank))
        first, second = comm.everyone(), comm.everyone()
        assert comm.test(first) == (comm.rank == size - 1)
        comm.wait(first)
        met = comm.now()
        comm.wait(second)
        return met, comm.now(), comm.traffic.total_sent_bytes + comm.traffic.total_sent_messages

    last = size - 1.0
    assert run(size, body) == [pytest.approx((last, last, 0))] * size

    def halves(comm: Communicator) -> float:
        comm.compute(float(comm.rank))
        part = comm.split(comm.rank % 2)
        comm.compute(float(comm.rank))
        part.wait(part.everyone())
        return comm.now()

    entered = [last + rank for rank in range(size)]
    assert run(size, halves) == [max(entered[rank % 2 :: 2]) for rank in range(size)]


def test_where_no_rank_dies_alone_all_survive() -> None:
    def body(comm: Communicator) -> bool:
        comm.outlive()
        return comm.survivors() is comm and comm.lost == frozenset() and not comm.everyone().lost

    assert all(run(3, body))
