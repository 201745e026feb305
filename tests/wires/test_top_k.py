"""Deep Gradient Compression against its rules, written again in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies.world import NETWORK, RATE, gradient_of, start_of, worker_of
from workbench.benchmarks.allocation import BLOCK_BYTES, peak
from workbench.collectives import Ring
from workbench.comm.base import Communicator
from workbench.comm.virtual import VirtualWorld
from workbench.recipes.sgd import SGD
from workbench.strategies import Synchronous
from workbench.wires import TopK

STEPS = 8
DECAY = 0.02


def momentum_at(step: int) -> float:
    """It is changed while the run goes on."""
    return 0.9 if step < 4 else 0.5


def trained(strategy: Synchronous, size: int) -> list[np.ndarray]:
    """The parameters of every rank after each step, shape (STEPS, 12)."""

    def body(comm: Communicator) -> np.ndarray:
        worker = worker_of(comm, same_start=True)
        worker.optimizer = SGD(momentum_at(0), DECAY)
        exchange = strategy.exchange(comm, worker)
        states = []
        for step in range(STEPS):
            worker.step, worker.optimizer.momentum = step, momentum_at(step)
            worker.arena.gradients.copy_(torch.from_numpy(gradient_of(comm.rank, step)))
            for bucket in range(len(strategy.buckets(worker.arena))):
                exchange.bucket_ready(bucket)
            exchange.before_update()
            exchange.update()
            exchange.after_update()
            states.append(worker.arena.state.numpy().copy())
        exchange.finish()
        return np.stack(states)

    return VirtualWorld(size, NETWORK).run(body)


def deep_gradient_compression(size: int, density: float, buckets: list[slice]) -> np.ndarray:
    """Lin et al., 2018, algorithm by algorithm: momentum correction, masking, the mean; weight decay with momentum of its own."""
    x = start_of(0)
    u, v, pull = (np.zeros_like(x) for _ in range(3))
    us, vs = [u.copy() for _ in range(size)], [v.copy() for _ in range(size)]
    states = []
    for step in range(STEPS):
        m, total = np.float32(momentum_at(step)), np.zeros_like(x)
        for rank in range(size):
            us[rank] = m * us[rank] + gradient_of(rank, step)
            vs[rank] = vs[rank] + us[rank]
            for bucket in buckets:
                k = max(1, round(density * (bucket.stop - bucket.start)))
                for place in bucket.start + np.argsort(-np.abs(vs[rank][bucket]), kind="stable")[:k]:
                    total[place] += vs[rank][place]
                    us[rank][place] = vs[rank][place] = 0
        pull = m * pull + np.float32(DECAY) * x
        x = x - np.float32(RATE) * (total / np.float32(size) + pull)
        states.append(x)
    return np.stack(states)


def error_feedback(size: int, density: float) -> np.ndarray:
    """Without correction: what is not sent waits, and the optimizer gathers momentum of the mean."""
    x, velocity = start_of(0), np.zeros(12, np.float32)
    vs = np.zeros((size, 12), np.float32)
    states = []
    for step in range(STEPS):
        total = np.zeros_like(x)
        for rank in range(size):
            vs[rank] += gradient_of(rank, step)
            chosen = np.argsort(-np.abs(vs[rank]), kind="stable")[: max(1, round(density * 12))]
            total[chosen] += vs[rank][chosen]
            vs[rank][chosen] = 0
        velocity = np.float32(momentum_at(step)) * velocity + (total / np.float32(size) + np.float32(DECAY) * x)
        x = x - np.float32(RATE) * velocity
        states.append(x)
    return np.stack(states)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("density", [0.01, 0.25, 0.6])
def test_momentum_is_gathered_before_the_choice_and_masked_after_it(size: int, density: float) -> None:
    expected = deep_gradient_compression(size, density, [slice(0, 12)])
    for trajectory in trained(Synchronous(wire=TopK(density=density)), size):
        np.testing.assert_allclose(trajectory, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("overlap", [False, True])
def test_every_bucket_chooses_by_itself(overlap: bool) -> None:
    expected = deep_gradient_compression(3, 0.25, [slice(0, 3), slice(3, 12)])
    for trajectory in trained(Synchronous(wire=TopK(density=0.25), bucket_bytes=1, overlap=overlap), 3):
        np.testing.assert_allclose(trajectory, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_without_correction_momentum_is_the_optimizers(size: int) -> None:
    expected = error_feedback(size, 0.25)
    for trajectory in trained(Synchronous(wire=TopK(density=0.25, correction=False)), size):
        np.testing.assert_allclose(trajectory, expected, rtol=1e-4, atol=1e-6)


def test_one_rank_alone_trains_as_without_it() -> None:
    assert np.array_equal(*(trained(Synchronous(wire=wire), 1)[0] for wire in (TopK(density=0.25), "float32")))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everything_sent_is_the_mean(size: int) -> None:
    def body(comm: Communicator) -> np.ndarray:
        buffer = gradient_of(comm.rank, 0)
        Ring().plan(comm, buffer, TopK(density=1.0)).run()
        return buffer

    mean = np.mean([gradient_of(rank, 0).astype(np.float64) for rank in range(size)], axis=0)
    for buffer in VirtualWorld(size, NETWORK).run(body):
        np.testing.assert_allclose(buffer, mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_applied_and_what_waits_are_all_that_came_in(dtype: str) -> None:
    """Also what float64 numbers lose when they travel as float32."""
    size, rounds, length = 4, 20, 257

    def body(comm: Communicator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        buffer, random = np.zeros(length, dtype), np.random.default_rng(comm.rank)
        plan = Ring().plan(comm, buffer, TopK(density=0.05))
        came, applied = np.zeros(length), np.zeros(length)
        for _ in range(rounds):
            buffer[:] = random.standard_normal(length)
            came += buffer
            plan.run()
            applied += buffer
        return came, applied, plan.exchanged.waiting

    ranks = VirtualWorld(size, NETWORK).run(body)
    came, waiting = sum(came for came, _, _ in ranks), sum(waiting.astype(np.float64) for _, _, waiting in ranks)
    assert np.abs(waiting).sum() > 1
    np.testing.assert_allclose(size * ranks[0][1] + waiting, came, atol=1e-4 if dtype == "float32" else 1e-10)


def test_of_equal_numbers_the_first_are_sent() -> None:
    def body(comm: Communicator) -> tuple[list[float], list[float]]:
        buffer = np.array([1, -2, 2, 0, -2, 2, 0, 1], np.float32)
        plan = Ring().plan(comm, buffer, TopK(density=0.375))
        plan.run()
        first = buffer.tolist()
        buffer[:] = 0
        plan.run()
        return first, buffer.tolist()

    for first, second in VirtualWorld(2, NETWORK).run(body):
        assert first == [0, -2, 2, 0, -2, 0, 0, 0]
        assert second == [1, 0, 0, 0, 0, 2, 0, 1]


class Silent:
    """The first of two ranks, for whom no message is ever under way."""

    rank, size = 0, 2

    def isend(self, *_: object) -> None: ...

    irecv = isend


@pytest.mark.parametrize("density", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ties", [True, False])
def test_after_the_first_exchange_nothing_grows_with_the_segment(density: float, correction: bool, dtype: str, ties: bool) -> None:
    fresh = np.ones(1 << 18, dtype) if ties else np.random.default_rng(0).standard_normal(1 << 18).astype(dtype)
    buffer = fresh.copy()
    exchanged = TopK(density, correction).compressed(Silent(), buffer, [], lambda _: None, lambda: 0.9)  # type: ignore[arg-type, return-value]

    class Exchange:
        def run(self) -> None:
            buffer[:] = fresh
            assert len(list(exchanged.steps())) == 1

    assert peak(Exchange()) < (BLOCK_BYTES if dtype == "float32" else 2 * BLOCK_BYTES)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "density", "count"), [(0, 0.5, 0), (1, 0.01, 1), (99, 0.01, 1), (100, 0.29, 29), (7, 1.0, 7)])
def test_how_many_are_sent(length: int, density: float, count: int) -> None:
    assert TopK(density=density).count(length) == count


def test_one_huge_number_of_a_float64_passes() -> None:
    """What does not fit in a message waits and goes later; nothing becomes infinite."""

    def body(comm: Communicator) -> list[float]:
        buffer = np.zeros(3)
        plan = Ring().plan(comm, buffer, TopK(density=1.0, correction=False))
        seen = []
        for value in (1e39, 0.0, 0.0, 0.0):
            buffer[:] = value
            plan.run()
            seen.append(float(buffer[0]))
        return seen

    for seen in VirtualWorld(2).run(body):
        assert np.isfinite(seen).all()
        assert sum(seen) == pytest.approx(1e39)
