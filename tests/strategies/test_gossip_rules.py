"""Each mode of gossip is its rule, event by event, on ranks of unequal speed that end at unequal steps; and what the rule keeps, it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.strategies.gossiped import Oracle, Pairs, Pull, Push, PushSum, near
from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of, worker_of
from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.virtual import VirtualWorld
from workbench.strategies import Gossip

SPEEDS = {"alike": lambda rank: 1e-3, "unlike": lambda rank: 1e-3 * (1 + 0.37 * rank), "straggler": lambda rank: 1e-2 if rank == 1 else 1e-3}
RULES = {
    "pull": (Gossip(), Pull),
    "pull, patient": (Gossip(patience_seconds=5e-4, every=2, topology="ring"), Pull),
    "push": (Gossip(mode="push"), Push),
    "push, patient": (Gossip(mode="push", patience_seconds=5e-4, topology="torus"), Push),
    "push-sum": (Gossip(mode="push-sum", probability=0.7), PushSum),
    "pairwise": (Gossip(mode="pairwise"), Pairs),
    "pairwise, patient": (Gossip(mode="pairwise", patience_seconds=1e-3, topology="ring"), Pairs),
}


def steps(rank: int) -> int:
    return 6 + 5 * (rank % 3)


@pytest.mark.parametrize("speeds", SPEEDS)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_rule_event_by_event(name: str, size: int, speeds: str) -> None:
    strategy, rule = RULES[name]
    oracle: Oracle = rule(size)
    trajectories, exchanges = play(strategy, size, steps, watch=oracle.watch, seconds=SPEEDS[speeds])
    oracle.over()
    for rank, trajectory in enumerate(trajectories):
        assert len(trajectory) == steps(rank) + 2
        assert near(trajectory[-1], oracle.x[rank])
    assert all(oracle.begun)
    assert all(len(exchange._then) <= 1 for exchange in exchanges)


@pytest.mark.parametrize("size", [2, 5])
def test_in_gradient_push_a_gradient_counts_the_same_whatever_the_weight(size: int) -> None:
    """Stochastic gradient push: the weighted mean moves by eta g / W; in GOSGD by a_i eta g."""
    oracle = PushSum(size, numerator=True)
    play(Gossip(mode="push-sum", topology="exponential", gradient="numerator"), size, steps, watch=oracle.watch, seconds=SPEEDS["unlike"])
    oracle.over()
    moved = sum(RATE / size * gradient_of(rank, step) for rank in range(size) for step in range(steps(rank)))
    assert near(oracle.total, np.mean([start_of(rank) for rank in range(size)], axis=0) - moved)


@pytest.mark.parametrize("topology", ["random", "exponential"])
def test_in_gradient_push_no_step_is_longer_than_four(topology: str) -> None:
    """One rank is twenty times faster than the others, and pushes to all of them before it hears of any."""
    oracle = PushSum(6, numerator=True)
    strategy = Gossip(mode="push-sum", topology=topology, gradient="numerator")
    _, exchanges = play(strategy, 6, lambda rank: 80 if rank == 0 else 4, watch=oracle.watch, seconds=lambda rank: 1e-3 if rank == 0 else 2e-2)
    oracle.over()
    assert 6 * oracle.least == pytest.approx(1 / 4, abs=1e-12), "at every step at least that, and the race comes to it"
    assert [exchange.counts["pushes without weight"] for exchange in exchanges] == oracle.withheld
    assert oracle.withheld[0] > 0


@pytest.mark.parametrize("speeds", SPEEDS)
@pytest.mark.parametrize("size", [2, 3, 8])
def test_pairs_keep_the_sum_of_all_but_for_gradients(size: int, speeds: str) -> None:
    trajectories, _ = play(Gossip(mode="pairwise"), size, steps, seconds=SPEEDS[speeds])
    learned = sum(RATE * gradient_of(rank, step) for rank in range(size) for step in range(steps(rank)))
    assert near(np.sum([t[-1] for t in trajectories], axis=0), np.sum([start_of(rank) for rank in range(size)], axis=0) - learned)


def test_two_that_ask_each_other_at_the_same_time_average_once() -> None:
    """And do not swap, nor average twice."""
    oracle = Pairs(2, gradients=False)
    trajectories, _ = play(Gossip(mode="pairwise"), 2, 1, watch=oracle.watch)
    oracle.over()
    assert oracle.crossings == 1
    assert oracle.mixed == [1, 1]
    for trajectory in trajectories:
        assert near(trajectory[-1], (start_of(0) + start_of(1)) / 2)


def test_what_is_there_at_one_look_is_one_mean() -> None:
    """A slow rank finds several pushes at once: x_i <- (x_i + sum of them) / (1 + how many)."""
    oracle = Push(6)
    play(Gossip(mode="push"), 6, steps, watch=oracle.watch, seconds=SPEEDS["straggler"])
    assert oracle.largest >= 3


def test_who_trains_last_keeps_its_weight() -> None:
    """The others have ended long before; without what they push back, its rate over W a_i would double with each step."""
    oracle = PushSum(3, numerator=True)
    strategy = Gossip(mode="push-sum", gradient="numerator")
    trajectories, exchanges = play(strategy, 3, lambda rank: 60 if rank == 0 else 3, watch=oracle.watch)
    oracle.over()
    assert exchanges[0].weight > 0.1
    assert all(np.abs(trajectory).max() < 10 for trajectory in trajectories)


def test_skipped_pushes_are_counted() -> None:
    """Rank 0 steps every millisecond, rank 1 looks at 10.5, 21 and 31.5 ms: pushes after 1, 11 and 22 ms are taken, of 30 steps."""
    oracle = Push(2, gradients=False)
    _, exchanges = play(
        Gossip(mode="push"), 2, lambda rank: 30 if rank == 0 else 4, watch=oracle.watch, seconds=lambda rank: 1e-3 if rank == 0 else 10.5e-3
    )
    oracle.over()
    assert oracle.begun == [3, 4]
    assert [dict(exchange.counts) for exchange in exchanges] == [{"pushes skipped": 27}, {}]


@pytest.mark.parametrize("mode", ["pull", "push", "push-sum", "pairwise"])
def test_what_is_not_trained_travels_too_and_variances_stay_variances(mode: str) -> None:
    """Two models with batch norm, without steps of their own: statistics meet, and never leave what both had."""

    def body(comm: Communicator) -> tuple[np.ndarray, list[float]]:
        worker = worker_of(comm, same_start=True)
        worker.arena = arena = Arena(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
        arena.state.fill_(1.0 + comm.rank)
        exchange = Gossip(mode=mode).exchange(comm, worker)  # type: ignore[arg-type]
        lowest = []
        for step in range(40):
            worker.step = step
            if step < 12:
                arena.buffers.mul_(0.3)  # statistics fall fast in the first steps
            comm.compute(1e-3 * (1 + 0.4 * comm.rank))
            exchange.after_update()
            lowest.append(float(arena.buffers.min()))
        worker.step += 1
        exchange.finish()
        return arena.state.numpy().copy(), lowest

    (first, _), (second, lowest) = VirtualWorld(2, NETWORK).run(body)
    np.testing.assert_allclose(first, second, rtol=1e-3)
    assert min(lowest) > 0
    assert torch.from_numpy(first[:12]).min() >= 1


@pytest.mark.parametrize("name", RULES)
def test_runs_repeat_bit_for_bit(name: str) -> None:
    strategy, _ = RULES[name]
    first, second = (play(strategy, 5, steps, seconds=SPEEDS["unlike"])[0] for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
