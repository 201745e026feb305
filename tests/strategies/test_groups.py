"""Groups as clients of servers: every update of the centre by NumPy, the limits bit for bit, whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.strategies.test_parameter_server import watched
from tests.strategies.world import NETWORK, RATE, gradient_of, play, seconds_of_an_exchange, start_of, worker_of
from workbench import Device, Job, VirtualCluster
from workbench.arena import Arena
from workbench.collectives import Torus2D, Tree
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.strategies import Elastic, Groups, ParameterServer, Strategy, Synchronous
from workbench.strategies.base import Update

STEPS = 11
SGD: dict[str, dict[str, float]] = {"plain": {}, "momentum and decay": {"momentum": 0.9, "weight_decay": 0.01}}
OUTERS = ("sync", "async", "elastic")


def uneven(rank: int) -> float:
    """Seconds of a step: some groups meet the centre more often than others, and never two at once."""
    return 1e-3 * (1 + 0.37 * rank)


def bits(trajectories: list[np.ndarray]) -> list[bytes]:
    return [trajectory.tobytes() for trajectory in trajectories]


def by_numpy(strategy: Groups, updates: list[Update], workers: int, sgd: dict[str, float]) -> Any:
    """What the order of `updates` makes of the scripted gradients, in float64: (trajectories and staleness of the workers, the last centre)."""
    momentum, decay, elastic = sgd.get("momentum", 0.0), sgd.get("weight_decay", 0.0), strategy.outer == "elastic"
    groups = {ranks[0]: ranks for ranks in strategy.members(workers)}
    shares = {client: len(ranks) / (workers / strategy.groups) for client, ranks in groups.items()}
    centre = start_of(workers).astype(np.float64)
    velocity = np.zeros((workers + 1, 12))  # of each worker, and of the centre
    x = np.stack([start_of(worker) for worker in range(workers)]).astype(np.float64)
    trajectories, staleness = [[row.copy()] for row in x], [list[int]() for _ in x]
    read = dict.fromkeys(groups, 0)

    def optimizer(who: int, parameters: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        velocity[who] = momentum * velocity[who] + gradient + decay * parameters
        return parameters - RATE * velocity[who]

    for version, applied in groupby(updates, key=lambda update: update.number):
        together = list(applied)
        brought, whole = [], {}
        for update in together:
            ranks = groups[update.worker]
            done = len(staleness[ranks[0]])
            means = [np.mean([gradient_of(rank, step) for rank in ranks], axis=0) for step in range(done, min(STEPS, done + strategy.interval))]
            for mean in means:
                for rank in ranks:
                    if elastic:
                        x[rank] = optimizer(rank, x[rank], mean)
                    trajectories[rank].append(x[rank].copy())
                    staleness[rank].append(0)
            assert update.staleness == version - read[update.worker]
            whole[update.worker] = len(means) == strategy.interval  # what is left at the end comes after the last step
            brought.append(shares[update.worker] * np.mean(means, axis=0))
        if elastic:
            client = together[0].worker
            pull = min(1, (strategy.pull or 0.5) * shares[client])
            before = centre
            centre = before + pull * (x[client] - before)
            for rank in groups[client]:
                x[rank] = x[rank] - pull * (x[rank] - before)
        else:
            centre = optimizer(workers, centre, np.mean(brought, axis=0))
        for update in together:
            for rank in groups[update.worker]:
                x[rank] = x[rank] if elastic else centre
                if whole[update.worker]:
                    trajectories[rank][-1], staleness[rank][-1] = x[rank].copy(), update.staleness
            read[update.worker] = version + 1
    for client, ranks in groups.items():
        for rank in ranks:
            trajectories[rank].append(x[client] if elastic else centre)
    return trajectories, staleness, centre


STRATEGIES = [
    Groups(groups=2, outer="sync"),
    Groups(groups=3, outer="sync", interval=3, inner=Tree()),
    Groups(groups=2, outer="async"),
    Groups(groups=3, outer="async", interval=4),
    Groups(groups=2, outer="elastic"),
    Groups(groups=3, outer="elastic", interval=3, pull=0.9),
]


@pytest.mark.parametrize("workers", [3, 4, 5, 8])
@pytest.mark.parametrize("sgd", SGD)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_update_is_what_numpy_makes_of_it(strategy: Groups, sgd: str, workers: int) -> None:
    exchanges: list[Any] = []

    def watch(exchange: Any) -> list[float]:
        exchanges.append(exchange)
        return watched(exchange)

    trajectories, seen = play(strategy, workers + 1, STEPS, watch=watch, seconds=uneven, **SGD[sgd])
    assert len(seen[workers]) == strategy.groups * -(-STEPS // strategy.interval), "every step is in the centre, the last ones too"
    expected, staleness, centre = by_numpy(strategy, seen[workers], workers, SGD[sgd])
    for worker in range(workers):
        np.testing.assert_allclose(trajectories[worker], expected[worker], rtol=1e-4, atol=1e-5)
        assert seen[worker] == staleness[worker], "all of a group know how stale it was"
    for exchange in exchanges:
        np.testing.assert_allclose(exchange.centre.numpy(), centre, rtol=1e-4, atol=1e-5)
        assert torch.equal(exchange.centre, exchanges[0].centre), "all end with the bits of the last centre"


@pytest.mark.parametrize("size", [3, 4, 6, 9])
@pytest.mark.parametrize("outer", OUTERS)
def test_the_workers_of_a_group_have_the_same_bits(outer: str, size: int) -> None:
    strategy = Groups(outer=outer, interval=2)
    trajectories, _ = play(strategy, size, STEPS, seconds=uneven, same_start=True, momentum=0.9)
    for ranks in strategy.members(size - 1):
        assert len({trajectories[rank].tobytes() for rank in ranks}) == 1
    if outer != "sync":
        assert trajectories[0].tobytes() != trajectories[-1].tobytes(), "groups go their own ways"


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("outer", OUTERS)
def test_one_group_is_an_all_reduce_and_has_no_servers(outer: str, size: int) -> None:
    one, reference = Groups(groups=1, outer=outer, interval=3, servers=2, inner=Tree()), Synchronous(collective=Tree())
    assert one.roles(size) == ("worker",) * size
    assert (one.lockstep, one.period, one.together(size)) == (True, 1, (0,) * size)
    grouped, _ = play(one, size, 6, seconds=uneven, **SGD["momentum and decay"])
    reduced, _ = play(reference, size, 6, seconds=uneven, **SGD["momentum and decay"])
    assert bits(grouped) == bits(reduced)
    assert one.seconds(10**6, size, NETWORK) == reference.seconds(10**6, size, NETWORK)


@pytest.mark.parametrize("size", range(3, 10))
@pytest.mark.parametrize(
    ("grouped", "alone"),
    [
        (Groups(outer="sync", interval=2), ParameterServer(mode="sync", every=2)),
        (Groups(outer="async"), ParameterServer()),
        (Groups(outer="async", interval=3, servers=2), ParameterServer(every=3, servers=2)),
        (Groups(outer="elastic", interval=3), Elastic(every=3)),
        (Groups(outer="elastic", pull=0.2), Elastic(every=1, pull=0.2)),
    ],
    ids=str,
)
def test_groups_of_one_are_workers(grouped: Groups, alone: Strategy, size: int) -> None:
    """The trajectories, what the servers have applied, and when: nothing can tell them apart."""
    workers = alone.roles(size).count("worker")
    if workers < 2:
        return
    grouped = grouped.replace(groups=workers)
    of_groups, of_workers = (play(each, size, STEPS, watch=watched, seconds=uneven, **SGD["momentum and decay"]) for each in (grouped, alone))
    assert bits(of_groups[0]) == bits(of_workers[0])
    assert of_groups[1] == of_workers[1]
    assert (grouped.roles(size), grouped.together(size)) == (alone.roles(size), alone.together(size))
    assert grouped.seconds(10**6, size, NETWORK) == pytest.approx(alone.seconds(10**6, size, NETWORK))


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("workers", [4, 5, 7, 8])
def test_groups_that_wait_for_all_make_the_mean_of_all_workers(workers: int, groups: int) -> None:
    """However unequal the groups are; over several servers too."""
    strategy = Groups(groups=groups, outer="sync", servers=2)
    served, _ = play(strategy, workers + 2, STEPS, seconds=uneven, same_start=True, **SGD["momentum and decay"])
    reduced, _ = play(Synchronous(), workers, STEPS, seconds=uneven, same_start=True, **SGD["momentum and decay"])
    np.testing.assert_allclose([t[: STEPS + 1] for t in served], [t[: STEPS + 1] for t in reduced], rtol=1e-4, atol=1e-5)


def test_groups_are_neighbours_of_nearly_one_size_that_share_their_steps() -> None:
    for workers in range(2, 20):
        for groups in range(2, workers + 1):
            members = Groups(groups=groups).members(workers)
            sizes = [len(ranks) for ranks in members]
            assert [rank for ranks in members for rank in ranks] == list(range(workers))
            assert max(sizes) - min(sizes) <= 1
            assert sum(Groups(groups=groups).share(group, workers) for group in range(groups)) == pytest.approx(groups)
    assert Groups(outer="async", servers=2).together(7) == (0, 0, 0, 3, 3, 5, 6)
    assert Groups(outer="elastic").together(5) == (0, 0, 2, 2, 4)
    assert Groups(outer="sync").together(5) == (0, 0, 0, 0, 4)
    assert [Groups(outer=outer, interval=3).period for outer in OUTERS] == [3, 1, 1]


@pytest.mark.parametrize("outer", ["async", "elastic"])
def test_groups_can_end_at_steps_of_their_own(outer: str) -> None:
    """As when a run is stopped, in the middle of an interval too: what a group has not brought yet is brought then."""
    strategy, lengths = Groups(groups=3, outer=outer, interval=3), (2, 2, 13, 13, 7)
    trajectories, seen = play(strategy, 6, lambda rank: lengths[rank], watch=lambda exchange: exchange, seconds=uneven, same_start=True)
    applied = [max(update.clock for update in seen[5] if update.worker == client) for client in (0, 2, 4)]
    assert applied == [1, 5, 3]
    assert {exchange.centre.numpy().tobytes() for exchange in seen[:5]} == {seen[0].centre.numpy().tobytes()}
    assert trajectories[2].tobytes() == trajectories[3].tobytes()


@pytest.mark.parametrize("outer", OUTERS)
def test_statistics_are_averaged_inside_and_between(outer: str) -> None:
    """Batch-norm statistics of 5 workers in groups of 3 and 2, one exchange; gradients are zero."""
    strategy = Groups(outer=outer, interval=2)
    roles = strategy.roles(6)
    told = np.random.default_rng(6).uniform(1, 2, (6, 6)).astype(np.float32)

    def body(comm: Communicator) -> np.ndarray:
        worker = worker_of(comm, same_start=True, roles=roles)
        worker.arena = Arena(nn.BatchNorm1d(3))
        worker.arena.buffers.copy_(torch.from_numpy(told[comm.rank if comm.rank == 5 else 0]))
        if roles[comm.rank] == "server":
            list(strategy.serving(comm, worker).serve())
            return worker.arena.buffers.numpy()
        exchange = strategy.exchange(comm, worker)
        worker.arena.buffers.copy_(torch.from_numpy(told[comm.rank]))
        comm.compute(1e-3 * (comm.rank + 1))
        exchange.before_update()
        exchange.update()
        exchange.after_update()
        exchange.finish()
        return worker.arena.buffers.numpy()

    found = VirtualWorld(6, NETWORK).run(body)
    inside, centre = [told[:3].mean(axis=0), told[3:5].mean(axis=0)], told[5]
    if outer == "sync":
        groups = [centre := told[:5].mean(axis=0)] * 2
    elif outer == "async":
        for statistics in inside:
            centre = (centre + statistics) / 2
        groups = [centre] * 2
    else:
        groups = []
        for statistics, pull in zip(inside, (0.6, 0.4), strict=True):
            groups.append(statistics - pull * (statistics - centre))
            centre = centre + pull * (statistics - centre)
    np.testing.assert_allclose(found, [groups[0]] * 3 + [groups[1]] * 2 + [centre], rtol=1e-5)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(("groups", "workers"), [(2, 2), (2, 4), (2, 8), (4, 4), (3, 6)])
@pytest.mark.parametrize("outer", OUTERS)
def test_the_declared_cost_is_the_time_on_the_wire(outer: str, groups: int, workers: int, servers: int) -> None:
    """Virtual seconds of steps of workers that do not compute, up to the start, in which not all links are busy yet."""
    strategy, size = Groups(groups=groups, outer=outer, interval=2, servers=servers), workers + servers
    seconds, nbytes = seconds_of_an_exchange(strategy, size, 40)
    assert seconds == pytest.approx(strategy.seconds(nbytes, size, NETWORK), rel=0.05)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    device = Device(seconds_per_sample=1e-4, seconds_per_update=1e-4)
    with VirtualCluster(4, device=device, network=Network.of("10G"), folder=tmp_path_factory.mktemp("runs")) as cluster:
        yield cluster


@pytest.mark.parametrize("outer", OUTERS)
def test_whole_runs_learn_the_digits(four: VirtualCluster, outer: str) -> None:
    """Groups of two and one; then one that ends in the middle of an interval."""
    strategy = Groups(outer=outer, interval=4 if outer == "elastic" else 1)
    job = Job(model="mlp", data="digits", epochs=6, batch_size=16, learning_rate=0.1, momentum=0.5 if outer == "async" else 0.9, strategy=strategy)
    run = four.train(job).wait(120)
    middle = four.train(job.replace(epochs=None, steps=7, strategy=strategy.replace(interval=3))).wait(120)
    assert run.status == middle.status == "done"
    answers = run.validation().query("rank == -1")
    assert answers["accuracy"].iloc[-1] >= 0.95
    final, centre = (torch.load(next((run.folder / "checkpoints").glob(f"{which}-*.pt")), weights_only=True) for which in ("final", "centre"))
    assert all(torch.equal(final[name], centre[name]) for name in centre)
    staleness = run.frame().pivot_table(index="step", columns="rank", values="staleness")
    assert (staleness[0] == staleness[1]).all(), "the second of a group records what its client has found"
    assert (staleness.max().max() > 0) == (outer != "sync")


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"Groups\(pull=0.5\): pull is for outer='elastic', got outer='sync'"):
        Groups(outer="sync", pull=0.5)
    with pytest.raises(ValueError, match="outer must be one of 'sync', 'async', 'elastic', got 'asynch'"):
        Groups(outer="asynch")
    with pytest.raises(ValueError, match="groups must be a whole number of at least 1, got 0"):
        Groups(groups=0)
    with pytest.raises(ValueError, match=r"Groups\(servers=3\) needs at least 4 ranks, 3 of which are servers, got 2"):
        Groups(servers=3).check(2)
    with pytest.raises(ValueError, match=r"Groups\(groups=4, servers=1\) needs at least 5 ranks, 1 of which are servers, got 4; .* at most 3"):
        Groups(groups=4).check(4)
    with pytest.raises(ValueError, match=r"inner=Torus2D\(rows=2\)\) on 8 ranks has a group of 3: .* rows may be 1 or 3"):
        Groups(inner=Torus2D(rows=2)).check(8)
    Groups(inner=Torus2D(rows=2)).check(9)
    Groups(groups=4).check(5)
