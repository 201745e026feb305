"""Who sends what to whom, by hand: what the laws leave open. Bytes of one exchange of a buffer of `BUFFER` bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest

from workbench.collectives import AllToAll, CentralServer, Collective, Hierarchical, MultiRing, Ring, Torus2D, Tree
from workbench.collectives.base import Plan, Steps
from workbench.collectives.passes import tree_broadcast, tree_reduce
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld

BUFFER = 4 * 720  # divided by all the numbers of parts below

Sent = dict[tuple[int, int], tuple[int, float]]
"""(from, to) -> messages, and their bytes as a share of the buffer."""

HALF, THIRD, QUARTER, FIFTH, SIXTH, TENTH = (1 / parts for parts in (2, 3, 4, 5, 6, 10))

EXPECTED: list[tuple[Collective, int, Sent]] = [
    (Ring(), 3, {(0, 1): (4, 4 * THIRD), (1, 2): (4, 4 * THIRD), (2, 0): (4, 4 * THIRD)}),
    # its part to every other rank, and the mean of its own
    (AllToAll(), 3, {(a, b): (2, 2 * THIRD) for a in range(3) for b in range(3) if a != b}),
    # rows 0 1 2 and 3 4 5: thirds along the row, sixths down the column, there and back
    (
        Torus2D(),
        6,
        {
            **dict.fromkeys(((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)), (4, 4 * THIRD)),
            **dict.fromkeys(((0, 3), (3, 0), (1, 4), (4, 1), (2, 5), (5, 2)), (2, 2 * SIXTH)),
        },
    ),
    # three rows of two: 0 1, 2 3, 4 5
    (
        Torus2D(rows=3),
        6,
        {
            **dict.fromkeys(((0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4)), (2, 2 * HALF)),
            **dict.fromkeys(((0, 2), (2, 4), (4, 0), (1, 3), (3, 5), (5, 1)), (4, 4 * SIXTH)),
        },
    ),
    # 1 and 2, 3 and 4; then 1 and 3, while 0 still waits; then 0 and 1: and back
    (Tree(), 5, {pair: (1, 1.0) for a, b in ((1, 2), (3, 4), (1, 3), (0, 1)) for pair in ((a, b), (b, a))}),
    (Tree(), 4, {pair: (1, 1.0) for a, b in ((0, 1), (2, 3), (0, 2)) for pair in ((a, b), (b, a))}),
    # leaders 0, 2 and 4, the last one of a group of its own
    (
        Hierarchical(group=2),
        5,
        {(1, 0): (1, 1.0), (0, 1): (1, 1.0), (3, 2): (1, 1.0), (2, 3): (1, 1.0), **dict.fromkeys(((0, 2), (2, 4), (4, 0)), (4, 4 * THIRD))},
    ),
    (Hierarchical(), 3, {(0, 1): (4, 4 * THIRD), (1, 2): (4, 4 * THIRD), (2, 0): (4, 4 * THIRD)}),  # a host each
    # half the buffer one way around, half the other
    (MultiRing(), 3, {(a, b): (4, 4 * SIXTH) for a in range(3) for b in range(3) if a != b}),
    # three slices: two to the right, one to the left
    (
        MultiRing(rings=3),
        4,
        {
            **{(a, (a + 1) % 4): (12, 12 / 12) for a in range(4)},
            **{((a + 1) % 4, a): (6, 6 / 12) for a in range(4)},
        },
    ),
    (CentralServer(), 4, {pair: (1, 1.0) for worker in (1, 2, 3) for pair in ((worker, 0), (0, worker))}),
    # ranks 0 and 2 serve half each, and are workers of each other
    (
        CentralServer(servers=2),
        5,
        {
            **{pair: (1, HALF) for worker in (1, 3, 4) for server in (0, 2) for pair in ((worker, server), (server, worker))},
            **dict.fromkeys(((0, 2), (2, 0)), (2, 2 * HALF)),
        },
    ),
]


@pytest.mark.parametrize(("collective", "size", "expected"), EXPECTED, ids=lambda given: str(given) if isinstance(given, Collective | int) else "")
def test_each_rank_sends_to_whom_it_should(collective: Collective, size: int, expected: Sent) -> None:
    def body(comm: Communicator) -> list[tuple[int, int]]:
        plan = collective.plan(comm, np.zeros(BUFFER // 4, np.float32))
        before = list(zip(comm.traffic.sent_messages, comm.traffic.sent_bytes, strict=True))
        plan.run()
        after = zip(comm.traffic.sent_messages, comm.traffic.sent_bytes, strict=True)
        return [(now[0] - then[0], now[1] - then[1]) for now, then in zip(after, before, strict=True)]

    sent = VirtualWorld(size, Network()).run(body)
    found = {(a, b): sent[a][b] for a in range(size) for b in range(size) if sent[a][b] != (0, 0)}
    assert found == {pair: (messages, round(share * BUFFER)) for pair, (messages, share) in expected.items()}


def test_hosts_are_asked_once_and_make_the_groups() -> None:
    """Ranks that take turns on two hosts: 0 and 2, 1 and 3."""
    asked: list[int] = []

    def body(comm: Communicator) -> tuple[float, list[int]]:
        def hosts() -> tuple[int, ...]:
            asked.append(comm.rank)
            return (0, 1, 0, 1)

        comm.hosts = hosts  # type: ignore[method-assign]
        buffer = np.full(10, comm.rank, np.float32)
        plan = Hierarchical().plan(comm, buffer)
        before = list(comm.traffic.sent_messages)
        plan.run()
        sent = [after - then for after, then in zip(comm.traffic.sent_messages, before, strict=True)]
        plan.run()
        return float(buffer[0]), sent

    results = VirtualWorld(4, Network()).run(body)
    assert sorted(asked) == [0, 1, 2, 3]
    assert results == [(1.5, [0, 2, 1, 0]), (1.5, [2, 0, 0, 1]), (1.5, [1, 0, 0, 0]), (1.5, [0, 1, 0, 0])]


@final
@dataclass(frozen=True)
class Forgetful(Collective):
    """Makes the mean of its first part alone."""

    def steps(self, plan: Plan) -> Steps:
        yield from tree_reduce(plan, range(plan.comm.size), 0)
        if plan.comm.rank == 0:
            plan.seal(0)
        yield from tree_broadcast(plan, range(plan.comm.size), 0)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        return 0.0

    def roundings(self, size: int) -> int:
        return size


def test_numbers_that_no_rank_made_a_mean_of_are_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"Forgetful\(\) must seal or take each of 9 numbers once, got 3"):
        VirtualWorld(3, Network()).run(lambda comm: Forgetful().reduce(comm, np.ones(9, np.float32)))


@pytest.mark.parametrize("servers", [1, 2, 4])
def test_a_server_needs_the_memory_of_two_parts(servers: int) -> None:
    def body(comm: Communicator) -> int:
        plan = CentralServer(servers=servers).plan(comm, np.zeros(BUFFER // 4, np.float32))
        plan.run()
        return sum(slot.nbytes for slot in plan._slots.values())  # type: ignore[attr-defined]

    aside = VirtualWorld(9, Network()).run(body)
    assert sorted(aside)[-servers:] == [2 * BUFFER // servers] * servers
    assert sum(aside) == 2 * BUFFER  # whoever serves nothing needs none
