"""Synchronous against its update rules, written again in NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from torch import nn

from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of
from workbench.arena import Arena
from workbench.collectives import PORTABLE
from workbench.models import MODELS
from workbench.strategies import Synchronous

STEPS = 7


@pytest.mark.parametrize("collective", PORTABLE)
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


def gradients(size: int, step: int) -> np.ndarray:
    """Of all workers, (workers, 12)."""
    return np.stack([gradient_of(index, step) for index in range(size)]).astype(np.float64)


SGD = {"plain": {}, "momentum": {"momentum": 0.9}, "decay": {"momentum": 0.8, "weight_decay": 0.05}}


@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("size", [2, 3])
def test_averaged_gradients_share_one_velocity(size: int, sgd: str) -> None:
    """SUBGD: v <- mu v + mean g + lambda x; x <- x - eta v."""
    trajectories, _ = play(Synchronous(), size, STEPS, same_start=True, **SGD[sgd])
    x, v = start_of(0).astype(np.float64), np.zeros(12)
    for step in range(STEPS):
        v = SGD[sgd].get("momentum", 0) * v + gradients(size, step).mean(axis=0) + SGD[sgd].get("weight_decay", 0) * x
        x = x - RATE * v
        np.testing.assert_allclose(trajectories[0][step + 1], x, rtol=1e-5, atol=1e-6)


FORMS = {
    "AWAGD": (Synchronous(average="parameters"), lambda step: True),
    "local": (Synchronous(average="parameters", every=3), lambda step: step in (2, 5, 8)),
    "post-local": (Synchronous(average="parameters", every=3, local_from=3), lambda step: step in (0, 1, 2, 5, 8)),
    "post-local from between": (Synchronous(average="parameters", every=4, local_from=2), lambda step: step in (0, 1, 3, 7)),
}
"""Form -> (strategy, whether a step of the first 9 ends in an average)."""


@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_averaged_parameters(form: str, size: int, sgd: str) -> None:
    """Each worker its own velocity, v_i <- mu v_i + g_i + lambda x_i; x_i <- x_i - eta v_i; then, at some steps, x_i <- mean x."""
    strategy, averages = FORMS[form]
    trajectories, _ = play(strategy, size, 9, **SGD[sgd])
    x = np.stack([start_of(index) for index in range(size)]).astype(np.float64)
    v = np.zeros_like(x)
    for step in range(9):
        v = SGD[sgd].get("momentum", 0) * v + gradients(size, step) + SGD[sgd].get("weight_decay", 0) * x
        x = x - RATE * v
        if averages(step):
            x[:] = x.mean(axis=0)
        for index, trajectory in enumerate(trajectories):
            np.testing.assert_allclose(trajectory[step + 1], x[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_where_ranks_meet_they_have_one_model(form: str) -> None:
    """Commands take effect at multiples of the period: a run that is stopped or paused there has nothing left to average."""
    strategy, _ = FORMS[form]
    trajectories, _ = play(strategy, 3, 12)
    for step in range(strategy.period, 13, strategy.period):
        assert all(np.array_equal(trajectory[step], trajectories[0][step]) for trajectory in trajectories)


@pytest.mark.parametrize("sgd", SGD)
def test_averaging_gradients_or_parameters_at_each_step_is_the_same_from_one_start(sgd: str) -> None:
    """SUBGD and AWAGD, velocities and decay included: all is linear (Ma, Mao and Taylor, 2016)."""
    of_gradients, _ = play(Synchronous(), 4, STEPS, same_start=True, **SGD[sgd])
    of_parameters, _ = play(Synchronous(average="parameters"), 4, STEPS, same_start=True, **SGD[sgd])
    np.testing.assert_allclose(of_gradients[0], of_parameters[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_mean_at_k_times_the_rate_is_the_sum_at_the_rate(momentum: float, decay: float) -> None:
    """As Theano-MPI has it; a sum of losses holds k times the decay, too."""
    k = 4
    trajectories, _ = play(Synchronous(), k, STEPS, same_start=True, momentum=momentum, weight_decay=decay, rate=k * RATE / 10)
    x, v = start_of(0).astype(np.float64), np.zeros(12)
    for step in range(STEPS):
        v = momentum * v + gradients(k, step).sum(axis=0) + k * decay * x
        x = x - RATE / 10 * v
        np.testing.assert_allclose(trajectories[0][step + 1], x, rtol=1e-5, atol=1e-5)


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"Synchronous\(every=3\): every above 1 averages parameters"):
        Synchronous(every=3)
    with pytest.raises(ValueError, match=r"Synchronous\(local_from=5\): local_from is for every above 1, got every=1"):
        Synchronous(average="parameters", local_from=5)
    with pytest.raises(ValueError, match="every above 1 averages parameters"):
        Synchronous(every=3, local_from=5)
    with pytest.raises(ValueError, match="local_from must be a whole number of at least 1 or None, got 0"):
        Synchronous(average="parameters", every=3, local_from=0)
    with pytest.raises(ValueError, match="unknown collective 'rign'; did you mean 'ring'"):
        Synchronous(collective="rign")
    with pytest.raises(ValueError, match=r"Synchronous\(wire=Int8\(.*\)\): Native\(\) sums what travels in a library, which takes float32 only"):
        Synchronous(collective="native", wire="int8")
    with pytest.raises(ValueError, match="average must be one of 'gradients', 'parameters', got 'both'"):
        Synchronous(average="both")


@pytest.mark.parametrize(
    ("widths", "count"),
    [((64, 64, 10), 1), ((64,) * 9, 4), ((128,) * 13, 6), ((256,) * 9, 8), ((512,) * 17, 16)],
    ids=["one", "of 32 KiB", "of two layers", "eighths", "of 1 MiB"],
)
def test_with_overlap_a_model_is_cut_unless_told_otherwise(widths: tuple[int, ...], count: int) -> None:
    """Into eighths of 32 KiB to 1 MiB, of whole parameters."""
    arena = Arena(nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths))))
    assert len(Synchronous(overlap=True).buckets(arena)) == count
    assert len(Synchronous().buckets(arena)) == 1
    assert len(Synchronous(overlap=True, bucket_bytes=1 << 30).buckets(arena)) == 1


def test_built_in_models_of_some_size_are_cut() -> None:
    arena = Arena(MODELS["resnet20"]().build((1, 8, 8), 10))
    assert len(Synchronous(overlap=True).buckets(arena)) >= 6


def test_cost_is_spread_over_local_steps() -> None:
    often, seldom = Synchronous(average="parameters"), Synchronous(average="parameters", every=10)
    assert often.seconds(10**6, 4, NETWORK) == pytest.approx(10 * seldom.seconds(10**6, 4, NETWORK))
