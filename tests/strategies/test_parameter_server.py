"""The parameter server: every update of the centre by NumPy, in the order in which the servers say that they applied them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest

from tests.strategies.world import NETWORK, RATE, gradient_of, play, seconds_of_an_exchange, start_of
from workbench.strategies import Elastic, ParameterServer, Strategy, Synchronous
from workbench.strategies.base import Update

STEPS = 11
SGD: dict[str, dict[str, float]] = {"plain": {}, "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01}}


def uneven(rank: int) -> float:
    """Seconds of a step: no two ranks come at the same time."""
    return 1e-3 * (1 + 0.37 * rank)


def straggling(rank: int) -> float:
    """Rank 1 takes ten times as long as the others, which differ a little."""
    return 1e-3 * (10 if rank == 1 else 1 + 0.07 * rank)


def watched(exchange: Any) -> list[float]:
    """The staleness of every step."""
    staleness: list[float] = []
    after = exchange.after_update

    def note() -> None:
        after()
        staleness.append(exchange.staleness)

    exchange.after_update = note
    return staleness


def by_numpy(strategy: ParameterServer, updates: list[Update], workers: int, centre: np.ndarray, sgd: dict[str, float]) -> Any:
    """What the order of `updates` makes of the scripted gradients, in float64: (trajectories of the workers, staleness of their steps).

    `centre` is its start, shape (12,). A worker's trajectory has its start, every step, and what it has after `finish`.
    """
    momentum, decay, every = sgd.get("momentum", 0.0), sgd.get("weight_decay", 0.0), strategy.every
    centre = centre.astype(np.float64)
    velocity = np.zeros((workers + 1, 12))  # of each worker, and of the centre
    x = np.stack([start_of(worker) for worker in range(workers)]).astype(np.float64)
    trajectories = [[x[worker].copy()] for worker in range(workers)]
    staleness: list[list[int]] = [[] for _ in range(workers)]
    read, clocks, held = np.zeros(workers, int), np.zeros(workers, int), []

    def optimizer(who: int, parameters: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        velocity[who] = momentum * velocity[who] + gradient + decay * parameters
        return parameters - RATE * velocity[who]

    for version, (_, group) in enumerate(groupby(updates, key=lambda update: update.number)):
        together, brought = list(group), []
        for update in together:
            worker = update.worker
            steps = range(len(staleness[worker]), min(STEPS, len(staleness[worker]) + every))
            before = x[worker].copy()
            for step in steps:
                if strategy.update == "worker":
                    x[worker] = optimizer(worker, x[worker], gradient_of(worker, step))
                trajectories[worker].append(x[worker].copy())
                staleness[worker].append(0)
            gradient = np.mean([gradient_of(worker, step) for step in steps], axis=0)
            brought.append(x[worker] - before if strategy.update == "worker" else gradient)
            clocks[worker] += 1
            assert update.clock == clocks[worker]
            assert update.staleness == version - read[worker]
            if len(steps) == every:  # what is left at the end comes after the last step
                staleness[worker][-1] = version - read[worker]
            held.append((worker, len(steps) == every))
        mean = np.mean(brought, axis=0)
        centre = centre + mean if strategy.update == "worker" else optimizer(workers, centre, mean)
        bound = {"async": STEPS, "sync": STEPS, "stale": strategy.staleness}[strategy.mode]
        for worker, whole in [(worker, whole) for worker, whole in held if clocks[worker] - clocks.min() <= bound]:
            held.remove((worker, whole))
            x[worker], read[worker] = centre, version + 1
            if whole:
                trajectories[worker][-1] = centre.copy()
    return [[*trajectory, centre] for trajectory in trajectories], staleness


OF_ONE_SERVER = [
    ParameterServer(mode=mode, update=update, every=every, staleness=1 if mode == "stale" else None)
    for mode, update, every in [
        ("async", "server", 1),
        ("async", "server", 3),
        ("async", "worker", 1),
        ("async", "worker", 4),
        ("sync", "server", 2),
        ("sync", "worker", 3),
        ("stale", "server", 1),
        ("stale", "worker", 2),
    ]
]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("strategy", OF_ONE_SERVER, ids=str)
def test_every_update_is_what_numpy_makes_of_it(strategy: ParameterServer, sgd: str, workers: int) -> None:
    trajectories, seen = play(strategy, workers + 1, STEPS, watch=watched, seconds=straggling, **SGD[sgd])
    assert len(seen[workers]) == workers * -(-STEPS // strategy.every), "every step is in the centre, the last ones too"
    expected, staleness = by_numpy(strategy, seen[workers], workers, start_of(workers), SGD[sgd])
    for worker in range(workers):
        np.testing.assert_allclose(trajectories[worker], expected[worker], rtol=1e-4, atol=1e-5)
        assert seen[worker] == staleness[worker]
    for trajectory in trajectories:
        assert np.array_equal(trajectory[-1], trajectories[0][-1]), "all end with the bits of the last centre"


@pytest.mark.parametrize("servers", [2, 3, 5])
@pytest.mark.parametrize("strategy", OF_ONE_SERVER, ids=str)
def test_a_centre_in_parts_is_the_centre(strategy: ParameterServer, servers: int) -> None:
    """The same workers make the same trajectory, whoever keeps which part; momentum and decay are kept with the parts."""
    one, _ = play(strategy, 4, STEPS, seconds=uneven, same_start=True, **SGD["momentum and decay"])
    many, seen = play(strategy.replace(servers=servers), 3 + servers, STEPS, seconds=uneven, same_start=True, **SGD["momentum and decay"])
    assert all(updates == seen[3] for updates in seen[3:]), "the times are far enough apart for one order"
    np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_who_waits_for_all_does_what_an_all_reduce_does(workers: int, sgd: str) -> None:
    """The mean of the gradients, applied once: the trajectory of `Synchronous` on the same workers; of steps, that of averaged parameters."""
    for of_servers, of_workers in [
        (ParameterServer(mode="sync"), Synchronous()),
        (ParameterServer(mode="sync", update="worker"), Synchronous(average="parameters")),
        (ParameterServer(mode="sync", update="worker", every=3), Synchronous(average="parameters", every=3)),
    ]:
        served, _ = play(of_servers, workers + 1, STEPS, seconds=uneven, same_start=True, **SGD[sgd])
        reduced, _ = play(of_workers, workers, STEPS, seconds=uneven, same_start=True, **SGD[sgd])
        np.testing.assert_allclose([t[: STEPS + 1] for t in served], [t[: STEPS + 1] for t in reduced], rtol=1e-4, atol=1e-5)


def test_async_is_not_sync_and_its_gradients_are_stale() -> None:
    """W workers of one speed: each gradient is W - 1 updates old; there are W times as many updates as rounds."""
    _, seen = play(ParameterServer(), 5, 20, seconds=lambda rank: 1e-2)
    assert [update.staleness for update in seen[4]][8:] == [3] * 72
    assert seen[4][-1].number == 79
    _, seen = play(ParameterServer(mode="sync"), 5, 20, seconds=lambda rank: 1e-2)
    assert {update.staleness for update in seen[4]} == {0}
    assert seen[4][-1].number == 19


@pytest.mark.parametrize("bound", range(5))
def test_nobody_is_further_ahead_than_the_bound(bound: int) -> None:
    """One worker ten times slower: the others do what the bound allows, all of it, and nothing more."""
    _, seen = play(ParameterServer(mode="stale", staleness=bound), 5, 20, seconds=straggling)
    clocks, worst = [0] * 4, 0
    for update in seen[4]:
        clocks[update.worker] += 1
        ahead = clocks[update.worker] - 1 - min(clocks)
        worst = max(worst, ahead)
        assert ahead <= bound, update
    assert worst == bound, "the straggler is so slow that the others come to the bound"
    assert clocks == [20] * 4


def test_the_same_seed_gives_the_same_bits() -> None:
    for strategy in (ParameterServer(servers=2, every=2), ParameterServer(mode="stale", staleness=1), ParameterServer(mode="sync")):
        first, second = (play(strategy, 6, STEPS, seconds=uneven, watch=watched, momentum=0.9) for _ in range(2))
        assert np.stack(first[0]).tobytes() == np.stack(second[0]).tobytes()
        assert first[1] == second[1]


def test_workers_that_end_early_do_not_hold_the_others() -> None:
    """As when a run is stopped: each worker ends where it is, and what it has not brought yet is brought then."""
    lengths = [2, 13, 0, 7]
    for strategy in (ParameterServer(every=3), ParameterServer(mode="stale", staleness=1, every=3)):
        trajectories, seen = play(strategy, 5, lambda rank: lengths[rank], seconds=uneven)
        applied = [max((update.clock for update in seen[4] if update.worker == worker), default=0) for worker in range(4)]
        assert applied == [-(-length // 3) for length in lengths]
        assert len({trajectory[-1].tobytes() for trajectory in trajectories}) == 1


@pytest.mark.parametrize("size", [2, 3, 4, 6, 9])
def test_the_declared_cost_is_the_time_on_the_wire(size: int) -> None:
    """Virtual seconds of exchanges between workers that do not compute, up to the start, in which not all links are busy yet."""
    strategies: list[Strategy] = [
        *(
            ParameterServer(mode=mode, servers=servers, staleness=0 if mode == "stale" else None)
            for mode in ("async", "sync", "stale")
            for servers in (1, 2)
            if servers < size
        ),
        Elastic(every=1),
    ]
    for strategy in strategies:
        seconds, nbytes = seconds_of_an_exchange(strategy, size)
        assert seconds == pytest.approx(strategy.seconds(nbytes, size, NETWORK), rel=0.04), strategy
    assert ParameterServer(every=4).seconds(10**6, 9, NETWORK) == pytest.approx(ParameterServer().seconds(10**6, 9, NETWORK) / 4)


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"ParameterServer\(servers=3\) needs at least 4 ranks, 3 of which are servers, got 3"):
        ParameterServer(servers=3).check(3)
    with pytest.raises(ValueError, match="mode must be one of 'async', 'sync', 'stale', got 'asyn'"):
        ParameterServer(mode="asyn")
    with pytest.raises(ValueError, match="staleness must be a whole number of at least 0 or None, got -1"):
        ParameterServer(staleness=-1)
    with pytest.raises(ValueError, match=r"ParameterServer\(staleness=0\): staleness is for mode='stale', got mode='async'"):
        ParameterServer(staleness=0)
    with pytest.raises(ValueError, match="servers must be a whole number of at least 1, got 0"):
        ParameterServer(servers=0)
