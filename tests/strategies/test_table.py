"""What every strategy of the table keeps, on any number of ranks: written once, so that a new one is held to it too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of
from workbench.recipes import Nesterov
from workbench.strategies import STRATEGIES, Elastic, Gossip, Groups, ParameterServer, Strategy, Synchronous
from workbench.strategies.base import Update

EVERY = {name: made() for name, made in STRATEGIES.items()} | {
    "local": Synchronous(average="parameters", every=3),
    "overlap": Synchronous(overlap=True, bucket_bytes=1),
    "post-local": Synchronous(average="parameters", every=3, local_from=2),
    "parameter-server, sync": ParameterServer(mode="sync", every=2),
    "parameter-server, stale": ParameterServer(mode="stale", staleness=1, update="worker", every=2),
    "parameter-server, 3 servers": ParameterServer(servers=3),
    "elastic, symmetric": Elastic(server=False, every=2),
    "elastic, momentum": Elastic(momentum=0.9, every=2),
    "gossip, push": Gossip(mode="push", topology="ring"),
    "gossip, push-sum": Gossip(mode="push-sum", probability=0.5),
    "gossip, gradient push": Gossip(mode="push-sum", topology="exponential", gradient="numerator"),
    "gossip, pairwise": Gossip(mode="pairwise", topology="torus", patience_seconds=1e-3),
    "groups, async": Groups(outer="async", interval=2, servers=2),
    "groups, elastic": Groups(outer="elastic", interval=3),
    "groups, one": Groups(groups=1),
    "outer": Synchronous(every=3, outer=Nesterov(learning_rate=1.0, momentum=0.0)),
}

SIZES = range(1, 10)


def allowed(strategy: Strategy, size: int) -> bool:
    try:
        strategy.check(size)
    except ValueError as error:
        if str(size) not in str(error):
            raise  # it must say what was given
        return False
    return True


def still(exchange: Any) -> None:
    exchange.update = lambda: exchange.worker.arena.gradients.zero_()  # what a worker brings may be its gradients themselves


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", SIZES)
def test_agreement_without_gradients_is_a_fixed_point(name: str, size: int) -> None:
    if allowed(EVERY[name], size):
        trajectories, _ = play(EVERY[name], size, 6, watch=still, same_start=True)
        for trajectory in trajectories:
            np.testing.assert_allclose(trajectory, np.broadcast_to(start_of(0), trajectory.shape), rtol=1e-6)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", SIZES)
def test_nobody_is_left_waiting_and_parameters_stay_in_their_hull(name: str, size: int) -> None:
    """Ranks of unequal speed, each from a start of its own, without gradients; the virtual world names who would hang."""
    if allowed(EVERY[name], size):
        trajectories, _ = play(EVERY[name], size, 9, watch=still, seconds=lambda rank: 1e-3 * (1 + rank))
        first, last = np.stack([start_of(rank) for rank in range(size)]), np.stack([t[-1] for t in trajectories])
        assert (last <= first.max(axis=0) + 1e-5).all()
        assert (last >= first.min(axis=0) - 1e-5).all()


@pytest.mark.parametrize("name", EVERY)
def test_one_rank_is_plain_sgd(name: str) -> None:
    if allowed(EVERY[name], 1):
        trajectories, _ = play(EVERY[name], 1, 6)
        x = start_of(0).astype(np.float64)
        for step in range(6):
            x = x - RATE * gradient_of(0, step)
            np.testing.assert_allclose(trajectories[0][step + 1], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_lockstep_ranks_can_end_after_any_step(name: str) -> None:
    """A run is stopped at a step that all agree on; whatever step that is, `finish` leaves nobody waiting."""
    if allowed(EVERY[name], 3):
        for steps in range(5):
            trajectories, _ = play(EVERY[name], 3, steps)
            assert all(len(trajectory) == steps + 2 for trajectory in trajectories)


@pytest.mark.parametrize("name", EVERY)
def test_ranks_that_share_no_step_can_end_at_different_ones(name: str) -> None:
    """As when a run is stopped and each rank stops where it is; in the order of the ranks, and the other way round."""
    strategy, size = EVERY[name], 5
    if len(set(strategy.together(size))) == size:
        for steps in ([1, 4, 0, 7, 3], [3, 7, 0, 4, 1]):
            trajectories, _ = play(strategy, size, steps.__getitem__)
            assert [len(trajectory) - 2 for trajectory in trajectories] == steps[: len(trajectories)]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", SIZES)
def test_workers_come_first_and_servers_apply_what_each_has_brought_once_and_in_order(name: str, size: int) -> None:
    strategy = EVERY[name]
    if not allowed(strategy, size):
        return
    roles = strategy.roles(size)
    workers = roles.count("worker")
    assert roles == ("worker",) * workers + ("server",) * (size - workers)
    assert workers
    _, watched = play(strategy, size, 5, seconds=lambda rank: 1e-3 * (1 + rank))
    for updates in watched[workers:]:
        clocks: Counter[int] = Counter()
        number = -1
        for update in updates:
            assert isinstance(update, Update)
            clocks[update.worker] += 1
            assert update.clock == clocks[update.worker]
            assert update.number - number in (0, 1)
            assert 0 <= update.staleness <= update.number
            number = update.number
        clients = [members[0] for members in strategy.members(workers)] if isinstance(strategy, Groups) else list(range(workers))
        assert sorted(clocks) == clients, "all have been heard"
        assert clocks == Counter(update.worker for update in watched[-1]), "every server has applied the same"


@pytest.mark.parametrize("name", EVERY)
def test_the_cost_is_a_time(name: str) -> None:
    assert EVERY[name].seconds(10**6, 1, NETWORK) == 0
    assert 0 < EVERY[name].seconds(10**6, 4, NETWORK) < 10
