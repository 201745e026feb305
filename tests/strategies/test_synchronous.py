"""Synchronous against its update rules, written again in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of
from workbench.collectives import COLLECTIVES
from workbench.strategies import Synchronous

STEPS = 7


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_averaged_gradients_are_one_large_batch(collective: str, size: int) -> None:
    trajectories, _ = play(Synchronous(collective=collective), size, STEPS, same_start=True)
    x = start_of(0).astype(np.float64)
    for step in range(STEPS):
        x = x - RATE * np.mean([gradient_of(index, step) for index in range(size)], axis=0)
        for trajectory in trajectories:
            np.testing.assert_allclose(trajectory[step + 1], x, rtol=1e-5, atol=1e-6)
    for trajectory in trajectories:
        assert np.array_equal(trajectory, trajectories[0]), "replicas must not drift apart by a bit"


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_averaged_parameters_every_h_steps(size: int, every: int) -> None:
    trajectories, _ = play(Synchronous(average="parameters", every=every), size, STEPS)
    x = np.stack([start_of(index) for index in range(size)]).astype(np.float64)
    for step in range(STEPS):
        x = x - RATE * np.stack([gradient_of(index, step) for index in range(size)])
        if (step + 1) % every == 0:
            x[:] = x.mean(axis=0)
        for index, trajectory in enumerate(trajectories):
            np.testing.assert_allclose(trajectory[step + 1], x[index], rtol=1e-5, atol=1e-6)


def test_averaging_gradients_or_parameters_each_step_is_the_same_without_momentum() -> None:
    of_gradients, _ = play(Synchronous(), 4, STEPS, same_start=True)
    of_parameters, _ = play(Synchronous(average="parameters"), 4, STEPS, same_start=True)
    np.testing.assert_allclose(of_gradients[0], of_parameters[0], rtol=1e-4, atol=1e-6)


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"Synchronous\(every=3\): every above 1 averages parameters"):
        Synchronous(every=3)
    with pytest.raises(ValueError, match="unknown collective 'rign'; did you mean 'ring'"):
        Synchronous(collective="rign")
    with pytest.raises(ValueError, match="average must be one of 'gradients', 'parameters', got 'both'"):
        Synchronous(average="both")


def test_cost_is_spread_over_local_steps() -> None:
    often, seldom = Synchronous(average="parameters"), Synchronous(average="parameters", every=10)
    assert often.seconds(10**6, 4, NETWORK) == pytest.approx(10 * seldom.seconds(10**6, 4, NETWORK))
