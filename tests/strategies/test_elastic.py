"""Elastic averaging: every meeting of a worker and the centre by NumPy, what the springs keep, and where they would diverge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.strategies.world import RATE, gradient_of, play, start_of
from workbench.strategies import Elastic
from workbench.strategies.base import Update

STEPS = 11
SGD: dict[str, dict[str, float]] = {"plain": {}, "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01}}


def uneven(rank: int) -> float:
    """Seconds of a step: some workers meet the centre more often than others, and never two at once."""
    return 1e-3 * (1 + 0.7 * rank)


class ByNumpy:
    """Workers with gradients from the script, in float64; `momentum` as of EAMSGD, `sgd` as of the job."""

    def __init__(self, strategy: Elastic, workers: int, sgd: dict[str, float]) -> None:
        self.strategy, self.sgd = strategy, sgd
        self.x = np.stack([start_of(worker) for worker in range(workers)]).astype(np.float64)
        self.v = np.zeros_like(self.x)
        self.done = [0] * workers
        self.trajectories: list[list[np.ndarray]] = [[x.copy()] for x in self.x]

    def step(self, i: int) -> None:
        """One step of worker i, without a meeting."""
        delta, decay = self.strategy.momentum, self.sgd.get("weight_decay", 0.0)
        gradient = gradient_of(i, self.done[i]) + decay * (self.x[i] + delta * self.v[i])  # at the point ahead
        if delta:
            self.v[i] = delta * self.v[i] - RATE * gradient
        else:
            self.v[i] = self.sgd.get("momentum", 0.0) * self.v[i] - RATE * gradient
        self.x[i] = self.x[i] + self.v[i]
        self.done[i] += 1

    def note(self, i: int) -> None:
        """Where worker i is between two steps."""
        self.trajectories[i].append(self.x[i] + self.strategy.momentum * self.v[i])

    def until_meeting(self, i: int) -> None:
        """The steps up to the next meeting of worker i, or to the last."""
        for turn in range(min(self.strategy.every, STEPS - self.done[i])):
            if turn:
                self.note(i)
            self.step(i)


def one_by_one(strategy: Elastic, updates: list[Update], workers: int, sgd: dict[str, float]) -> Any:
    """(trajectories, the last centre) of workers that meet the centre in the order of `updates`."""
    world, pull = ByNumpy(strategy, workers, sgd), 0.5 if strategy.pull is None else strategy.pull
    centre, read = start_of(workers).astype(np.float64), [0] * workers
    for number, update in enumerate(updates):
        i = update.worker
        world.until_meeting(i)
        if world.done[i] % strategy.every:  # the last one, after what is left
            world.note(i)
        x = world.x[i]
        world.x[i], centre = x - pull * (x - centre), centre + pull * (x - centre)
        assert (update.number, update.staleness) == (number, number - read[i])
        read[i] = number + 1  # its own counts as read: it has moved by as much
        if world.done[i] % strategy.every == 0:
            world.note(i)
    for i, x in enumerate(world.x):
        world.trajectories[i].append(x)
    return world.trajectories, centre


def all_at_once(strategy: Elastic, workers: int, sgd: dict[str, float]) -> Any:
    """(trajectories, the last centre) of the symmetric form, from one start."""
    world, pull = ByNumpy(strategy, workers, sgd), 0.9 / workers if strategy.pull is None else strategy.pull
    world.x[:] = centre = start_of(0).astype(np.float64)
    world.trajectories = [[x.copy()] for x in world.x]
    while min(world.done) < STEPS:
        for i in range(workers):
            world.until_meeting(i)
            if world.done[i] % strategy.every:
                world.note(i)
        x = world.x.copy()
        world.x[:] = x - pull * (x - centre)
        centre = centre + pull * (x - centre).sum(axis=0)
        for i in range(workers):
            if world.done[i] % strategy.every == 0:
                world.note(i)
    for i, x in enumerate(world.x):
        world.trajectories[i].append(x)
    return world.trajectories, centre


@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize(
    "strategy", [Elastic(every=1), Elastic(every=3, pull=0.2), Elastic(every=1, momentum=0.9), Elastic(every=4, momentum=0.5, pull=0.9)], ids=str
)
def test_one_by_one_every_meeting_is_what_numpy_makes_of_it(strategy: Elastic, workers: int, sgd: str) -> None:
    trajectories, watched = play(strategy, workers + 1, STEPS, watch=lambda exchange: exchange, seconds=uneven, **SGD[sgd])
    exchanges, updates = watched[:workers], watched[workers]
    assert len(updates) == workers * -(-STEPS // strategy.every)
    expected, centre = one_by_one(strategy, updates, workers, SGD[sgd])
    for worker, exchange in enumerate(exchanges):
        np.testing.assert_allclose(trajectories[worker], expected[worker], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(exchange.centre.numpy(), centre, rtol=1e-4, atol=1e-5)
        assert np.array_equal(exchange.centre, exchanges[0].centre), "all know the same bits of the last centre"


@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("workers", [2, 3, 6])
@pytest.mark.parametrize(
    "strategy", [Elastic(server=False, every=1), Elastic(server=False, every=3, pull=0.2), Elastic(server=False, every=4, momentum=0.9)], ids=str
)
def test_all_at_once_every_meeting_is_what_numpy_makes_of_it(strategy: Elastic, workers: int, sgd: str) -> None:
    trajectories, exchanges = play(strategy, workers, STEPS, watch=lambda exchange: exchange, seconds=uneven, same_start=True, **SGD[sgd])
    expected, centre = all_at_once(strategy, workers, SGD[sgd])
    for worker, exchange in enumerate(exchanges):
        np.testing.assert_allclose(trajectories[worker], expected[worker], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(exchange.centre.numpy(), centre, rtol=1e-4, atol=1e-5)
        assert np.array_equal(exchange.centre, exchanges[0].centre), "every copy of the centre has the same bits"


@pytest.mark.parametrize("strategy", [Elastic(every=1), Elastic(every=2, pull=0.7), Elastic(server=False, every=1)], ids=str)
def test_springs_keep_the_sum_of_centre_and_workers(strategy: Elastic) -> None:
    """Only gradients change it: what a worker loses by the pull, the centre gains."""
    same = not strategy.server  # copies of one centre begin as one
    trajectories, watched = play(strategy, 5, 40, watch=lambda exchange: exchange, seconds=uneven, same_start=same)
    workers = len(trajectories)
    starts = [start_of(0 if same else rank) for rank in range(workers + 1)]
    steps = [gradient_of(worker, step) for worker in range(workers) for step in range(40)]
    total = np.sum([trajectory[-1] for trajectory in trajectories], axis=0) + watched[0].centre.numpy()
    np.testing.assert_allclose(total, np.sum(starts, axis=0) - RATE * np.sum(steps, axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_pull_that_diverges_is_refused_and_one_below_it_does_not(workers: int) -> None:
    """The bound is where the meeting, as a matrix on (workers, centre), has an eigenvalue beyond -1."""
    bound = 2 / (workers + 1)

    def radius(pull: float) -> float:
        meeting = np.eye(workers + 1)
        meeting[:-1] *= 1 - pull
        meeting[:-1, -1] = meeting[-1, :-1] = pull
        meeting[-1, -1] = 1 - pull * workers
        return float(np.abs(np.linalg.eigvals(meeting)).max())

    assert radius(0.999 * bound) < 1 + 1e-9
    assert radius(1.001 * bound) > 1 + 1e-4
    Elastic(server=False, pull=0.999 * bound).check(workers)
    for pull in (bound, min(1.0, 1.001 * bound)):
        with pytest.raises(ValueError, match=rf"diverges on {workers} ranks: pull must be below 2/\(workers \+ 1\) = {bound:.4g}; 0.9/workers = "):
            Elastic(server=False, pull=pull).check(workers)
    Elastic(server=True, pull=1.0).check(workers)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (play(Elastic(every=2, momentum=0.9), 5, STEPS, seconds=uneven) for _ in range(2))
    assert np.stack(first[0]).tobytes() == np.stack(second[0]).tobytes()
    assert first[1][-1] == second[1][-1]


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"Elastic\(servers=1\) needs at least 2 ranks, 1 of which are servers, got 1"):
        Elastic().check(1)
    with pytest.raises(ValueError, match=r"Elastic\(server=False\) needs at least 2 ranks, got 1"):
        Elastic(server=False).check(1)
    with pytest.raises(ValueError, match=r"pull must be a number in \(0, 1\] or None, got 0"):
        Elastic(pull=0)
