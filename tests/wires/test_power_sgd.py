"""PowerSGD against its rules, written again in NumPy."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

from workbench.collectives import PORTABLE, Collective, Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import PowerSGD

NETWORK = Network(latency=1e-5, bandwidth=1e8)
SHAPES = [(10,), (10, 8, 2), (3, 3), (6, 40), ()]
"""With rank 2: a vector, 10 x 16, a matrix that would not shrink, 6 x 40, a scalar."""
LENGTH = sum(map(prod, SHAPES))


def gradient(rank: int, turn: int) -> np.ndarray:
    return np.random.default_rng([rank, turn]).standard_normal(LENGTH)


def exchanged(wire: PowerSGD, size: int, turns: int, collective: Collective = Ring(), dtype: str = "float64") -> tuple[np.ndarray, list[Any]]:  # noqa: B008
    """What rank 0 is left with after each exchange, shape (turns, LENGTH); of every rank (Q at the start, errors at the end)."""

    def body(comm: Communicator) -> tuple[list[np.ndarray], Any]:
        buffer = np.zeros(LENGTH, dtype)
        plan = collective.plan(comm, buffer, wire, SHAPES)
        matrices = plan.exchanged.matrices
        starts, results = [matrix.right.numpy().copy() for matrix in matrices], []
        for turn in range(turns):
            buffer[:] = gradient(comm.rank, turn)
            plan.run()
            results.append(buffer.copy())
        return results, (starts, [matrix.error.numpy().copy() for matrix in matrices])

    ranks = VirtualWorld(size, NETWORK).run(body)
    return np.stack(ranks[0][0]), [watched for _, watched in ranks]


def gram_schmidt(p: np.ndarray) -> np.ndarray:
    p = p.copy()
    for column in range(p.shape[1]):
        for before in range(column):
            p[:, column] -= p[:, before] * (p[:, before] @ p[:, column])
        p[:, column] /= np.linalg.norm(p[:, column])
    return p


@pytest.mark.parametrize("name", ["ring", "native", "halving-doubling"])
@pytest.mark.parametrize("size", [2, 4])
def test_every_exchange_is_one_power_iteration_with_error_feedback(name: str, size: int) -> None:
    turns = 6
    results, watched = exchanged(PowerSGD(rank=2), size, turns, PORTABLE[name]())
    compressed = [slice(10, 170), slice(179, 419)]  # where the 10 x 16 and the 6 x 40 lie
    qs = watched[0][0]
    errors = [[np.zeros((10, 16)), np.zeros((6, 40))] for _ in range(size)]
    for turn in range(turns):
        expected = np.mean([gradient(rank, turn) for rank in range(size)], axis=0)  # all that is not compressed
        for index, (place, shape) in enumerate(zip(compressed, [(10, 16), (6, 40)], strict=True)):
            ms = [gradient(rank, turn)[place].reshape(shape) + errors[rank][index] for rank in range(size)]
            p = gram_schmidt(np.mean([m @ qs[index] for m in ms], axis=0))
            qs[index] = np.mean([m.T @ p for m in ms], axis=0)
            approximation = p @ qs[index].T
            for rank in range(size):
                errors[rank][index] = ms[rank] - approximation
            expected[place] = approximation.ravel()
        np.testing.assert_allclose(results[turn], expected, rtol=1e-7, atol=1e-9)


def test_all_ranks_begin_alike_and_layers_differently() -> None:
    _, watched = exchanged(PowerSGD(rank=2), 3, 1)
    for starts, _ in watched:
        for one, other in zip(starts, watched[0][0], strict=True):
            assert np.array_equal(one, other)
    assert not np.array_equal(watched[0][0][0][:4], watched[0][0][1][:4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_was_applied_and_the_mean_error_are_all_that_came_in(dtype: str) -> None:
    size, turns = 3, 25
    results, watched = exchanged(PowerSGD(rank=2), size, turns, dtype=dtype)
    came = np.mean([[gradient(rank, turn) for rank in range(size)] for turn in range(turns)], axis=1).sum(axis=0)
    left = np.zeros(LENGTH)
    errors = [np.mean([of_rank[index] for _, of_rank in watched], axis=0).ravel() for index in range(len(watched[0][1]))]
    for place, error in zip([slice(10, 170), slice(179, 419)], errors, strict=True):
        left[place] = error
    assert np.abs(left).sum() > 1
    np.testing.assert_allclose(results.sum(axis=0) + left, came, atol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_mean_gradient_of_that_rank_arrives_exactly(rank: int) -> None:
    n, m, size = 20, 30, 3

    def low_rank(worker: int, turn: int) -> np.ndarray:
        """Of different workers different, their mean of rank `rank`."""
        columns = np.random.default_rng(turn).standard_normal((n, rank))
        return columns @ np.random.default_rng([worker, turn]).standard_normal((rank, m))

    def body(comm: Communicator) -> None:
        buffer = np.zeros(n * m)
        plan = Ring().plan(comm, buffer, PowerSGD(rank=rank), [(n, m)])
        for turn in range(4):
            buffer[:] = low_rank(comm.rank, turn).ravel()
            plan.run()
            mean = np.mean([low_rank(worker, turn) for worker in range(size)], axis=0)
            np.testing.assert_allclose(buffer.reshape(n, m), mean, atol=1e-9)

    VirtualWorld(size, NETWORK).run(body)


def test_gradients_of_zeros_do_not_end_the_search() -> None:
    def body(comm: Communicator) -> None:
        buffer = np.zeros(600, np.float32)
        plan = Ring().plan(comm, buffer, PowerSGD(rank=2), [(20, 30)])
        plan.run()
        assert not buffer.any()
        matrix = np.zeros((20, 30), np.float32)
        matrix[15:] = np.arange(30)  # rows that the unit vectors of a basis of nothing do not see
        buffer[:] = matrix.ravel()
        plan.run()
        np.testing.assert_allclose(buffer.reshape(20, 30), matrix, atol=1e-4)

    VirtualWorld(2, NETWORK).run(body)


def test_a_gradient_that_repeats_is_approximated_better_and_better() -> None:
    """Power iteration: with the same gradient again, the Q of the last exchange turns towards the largest singular vectors."""
    matrix = np.random.default_rng(1).standard_normal((30, 40)) * np.logspace(0, -2, 40)
    best = np.linalg.norm(matrix - (lambda u, s, v: (u[:, :2] * s[:2]) @ v[:2])(*np.linalg.svd(matrix, full_matrices=False)))

    def body(comm: Communicator) -> list[float]:
        buffer = np.zeros(matrix.size)
        plan = Ring().plan(comm, buffer, PowerSGD(rank=2), [matrix.shape])
        off = []
        for _ in range(30):
            plan.exchanged.matrices[0].error.zero_()
            buffer[:] = matrix.ravel()
            plan.run()
            off.append(float(np.linalg.norm(buffer.reshape(matrix.shape) - matrix)))
        return off

    off = VirtualWorld(2, NETWORK).run(body)[0]
    assert off[0] > 1.05 * best
    assert off[-1] == pytest.approx(best, rel=1e-3)


def test_what_would_not_shrink_travels_as_it_is() -> None:
    wire = PowerSGD(rank=2)
    assert [wire.shrinks(shape) for shape in SHAPES] == [False, True, False, True, False]
    assert wire.lengths(LENGTH, SHAPES) == (2 * (10 + 6), 2 * (16 + 40) + 10 + 9 + 1)
    assert wire.lengths(100, []) == (0, 100)
