"""Exchange during backward: when buckets are handed over, that nothing but time changes, and what virtual ranks are charged."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.mpi.test_laws import mpiexec
from tests.training.uneven import Uneven, exchanges, plain
from workbench import Cluster
from workbench.arena import Arena
from workbench.cluster.charges import Charges, Costs, costs_of, measure_arrivals
from workbench.comm.base import Communicator
from workbench.comm.network import Device, Network
from workbench.comm.virtual import VirtualWorld
from workbench.data import load
from workbench.errors import PeerLost
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.store import Rows, read_events, read_table, write_json
from workbench.strategies import STRATEGIES, Exchange, Synchronous, Worker
from workbench.telemetry import PHASES
from workbench.training.checkpoint import load_state
from workbench.training.control import Inbox
from workbench.training.journal import Flusher, Journal
from workbench.training.rank import Place, run_rank
from workbench.training.readiness import readiness

NETWORK = Network(latency=1e-4, bandwidth=1e7)
ARRIVALS = ((10, 0.5), (650, 0.6), (4096 + 650 + 64, 1.0))
UNEVEN = "tests.training.uneven:uneven"
OVERLAPPED = [name for name, made in STRATEGIES.items() if hasattr(made(), "overlap")]


# -- when buckets are handed over, on a rank with hooks ----------------------------------------------------------


class Told(Exchange):
    """Notes each bucket as it is handed over, with its gradients then."""

    def bucket_ready(self, index: int) -> None:
        self.notes.append((index, self.worker.arena.gradients[self.buckets[index]].clone()))

    def of(self, buckets: tuple[slice, ...]) -> Told:
        self.buckets, self.notes = buckets, []
        return self


def handed_over(module: nn.Module, bucket_bytes: int, loss_of: Any = plain, steps: int = 3) -> list[tuple[list[int], int]]:
    """Of each step: the buckets in the order in which they were handed over, and how many of them before the end of backward."""
    strategy = Synchronous(overlap=True, bucket_bytes=bucket_bytes)
    batches = [(torch.randn(4, 64), torch.arange(4)) for _ in range(steps)]

    def body(comm: Communicator) -> list[tuple[list[int], int]]:
        arena = Arena(module.train())
        worker = Worker(arena, module, SGD(), 4, lambda: 0.1, np.random.default_rng(0), 0, 1)
        exchange = Told(comm, worker).of(strategy.buckets(arena))
        found = []
        with readiness(strategy, comm, worker, exchange, None) as backward:
            for batch in batches:
                exchange.notes.clear()
                arena.clear()
                backward(loss_of(module, batch)[0])
                during = len(exchange.notes)
                backward.complete()
                sent = torch.cat([gradients for _, gradients in exchange.notes])
                assert torch.equal(sent, arena.gradients), "what is handed over must be the gradient, to the last bit"
                found.append(([index for index, _ in exchange.notes], during))
        assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters()), "hooks are gone"
        return found

    return VirtualWorld(1).run(body)[0]


@pytest.mark.parametrize("bucket_bytes", [1, 3000, 10**9])
@pytest.mark.parametrize("loss", ["plain", "forgetful"])
def test_buckets_come_in_order_and_hold_the_gradient(bucket_bytes: int, loss: str) -> None:
    torch.manual_seed(1)
    module = Uneven(64, 10)
    count = len(Synchronous(overlap=True, bucket_bytes=bucket_bytes).buckets(Arena(Uneven(64, 10))))
    loss_of = getattr(__import__("tests.training.uneven", fromlist=[loss]), loss)
    for order, during in handed_over(module, bucket_bytes, loss_of):
        assert order == list(range(count))
        assert during < count, "a bucket with a parameter that got no gradient comes at the end"


def test_buckets_are_handed_over_during_backward() -> None:
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 10))
    for order, during in handed_over(module, 1):
        assert order == list(range(6))
        assert during == 6


def test_a_strategy_that_does_not_want_it_costs_nothing() -> None:
    def body(comm: Communicator) -> None:
        module = nn.Linear(3, 2)
        arena = Arena(module)
        worker = Worker(arena, module, SGD(), 4, lambda: 0.1, np.random.default_rng(0), 0, 1)
        with readiness(Synchronous(bucket_bytes=1), comm, worker, Told(comm, worker), None):
            assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())

    VirtualWorld(1).run(body)


def test_a_gradient_that_comes_again_is_refused() -> None:
    def twice(module: nn.Module, batch: Any) -> Any:
        plain(module, batch)[0].backward()
        return plain(module, batch)

    with pytest.raises(ValueError, match=r"3\.(weight|bias) got a gradient again .* one backward, .* give the strategy overlap=False"):
        handed_over(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.ReLU(), nn.Linear(32, 10)), 1, twice)


def test_a_gradient_that_is_replaced_after_it_was_sent_is_refused() -> None:
    module = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))

    def moving(model: nn.Module, batch: Any) -> Any:
        loss, metrics = plain(model, batch)
        model[0].bias.register_hook(lambda gradient: setattr(model[1].bias, "grad", torch.ones(10)))
        return loss, metrics

    with pytest.raises(ValueError, match=r"1\.bias was given another \.grad"):
        handed_over(module, 1, moving)


# -- whole runs ------------------------------------------------------------------------------------------------------


def run(folder: Path, job: Job, size: int, inbox: Inbox | None = None, costs: Costs | None = None, network: Network = NETWORK) -> list[dict]:
    folder.mkdir(exist_ok=True)
    write_json(folder / "job.json", job.to_json())
    flusher = Flusher(journal := Journal("world.0", folder))
    inbox = inbox or Inbox()
    costs = costs or Costs(5e-3, 1e-3, arrivals=ARRIVALS)

    def body(comm: Communicator) -> dict:
        return run_rank(job, comm, journal, inbox, folder, Place(torch.device("cpu"), charge=Charges(comm, costs)))

    try:
        return VirtualWorld(size, network).run(body)
    finally:
        flusher.close()


def final(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in load_state(folder).values()])


def steps_of(folder: Path) -> Rows:
    steps = read_table(folder, "steps")
    return steps[steps["rank"] == 0]


@pytest.mark.parametrize("options", exchanges(4), ids=lambda options: "-".join(map(str, options.values())))
def test_overlap_changes_the_time_and_not_a_bit_of_the_model(tmp_path: Path, options: dict[str, Any]) -> None:
    ends = []
    for overlap in (False, True):
        job = Job(model=UNEVEN, steps=5, batch_size=16, strategy=Synchronous(overlap=overlap, **options))
        run(tmp_path / str(overlap), job, 4)
        ends.append(final(tmp_path / str(overlap)))
    assert torch.equal(*ends)


def test_what_is_hidden_is_recorded_and_phases_add_up(tmp_path: Path) -> None:
    """Forward, then each bucket when it is complete and the link is free: the closed form of wait-free backprop."""
    network = Network(latency=0.0, bandwidth=2e6)
    strategy = Synchronous(overlap=True, bucket_bytes=1)
    run(tmp_path / "run", Job(steps=4, strategy=strategy), 4, network=network)
    arena = Arena(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)))  # the built-in MLP
    cuts = strategy.buckets(arena)
    costs = [strategy.collective.seconds(4 * (cut.stop - cut.start), 4, network) for cut in cuts]
    ready = [5e-3 * next(share for stop, share in ARRIVALS if cut.stop <= stop) for cut in cuts]
    closed = max(when + sum(costs[k:]) for k, when in enumerate(ready))
    steps = steps_of(tmp_path / "run")
    assert steps["compute_seconds"] == pytest.approx(5e-3, rel=1e-3)
    assert steps["compute_seconds"] + steps["exchange_seconds"] == pytest.approx(closed, rel=0.01)
    assert steps["hidden_seconds"] == pytest.approx(sum(costs) - steps["exchange_seconds"], rel=0.01)
    together = np.sum([steps[f"{phase}_seconds"] for phase in PHASES], axis=0)
    assert np.diff(steps["start_seconds"]) == pytest.approx(together[:-1], rel=1e-4)


def test_nothing_is_hidden_where_gradients_come_at_the_end(tmp_path: Path) -> None:
    run(tmp_path / "run", Job(steps=3, strategy=Synchronous(overlap=True)), 2, costs=Costs(5e-3, 1e-3))
    assert steps_of(tmp_path / "run")["hidden_seconds"].tolist() == [0.0] * 3


def test_commands_apply_at_the_same_step(tmp_path: Path) -> None:
    inbox = Inbox()
    for number, (verb, options) in enumerate([("change", {"learning_rate": 0.01}), ("step", {"count": 5}), ("resume", {}), ("stop", {})], 1):
        inbox.put(number, verb, options)
    out = run(tmp_path / "run", Job(steps=500, strategy=Synchronous(overlap=True, bucket_bytes=1)), 4, inbox)
    assert {result["status"] for result in out} == {"stopped"}
    assert len({event["step"] for event in read_events(tmp_path / "run") if event["kind"] == "change"}) == 1


def test_a_rank_that_fails_while_others_exchange_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(charges: Charges, stops: Any) -> Any:
        charges.comm.compute(1e-3)
        yield 0
        if charges.comm.rank == 1:
            raise RuntimeError("out of luck")
        charges.comm.compute(1.0)
        yield from range(1, len(stops))

    monkeypatch.setattr(Charges, "backward", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(tmp_path / "run", Job(steps=5, strategy=Synchronous(overlap=True, bucket_bytes=1)), 3)
    lost = [event for event in read_events(tmp_path / "run") if event.get("error") == PeerLost.__name__]
    assert [event["lost"] for event in lost] == [1, 1]


# -- what virtual ranks are charged ----------------------------------------------------------------------------------


def test_when_gradients_are_complete_is_measured_in_order_and_once() -> None:
    job = Job(model=UNEVEN, batch_size=8, strategy=Synchronous(overlap=True))
    split = load(job.data, job.data_options, job.seed)
    arena = Arena(Uneven(64, 10))
    ends, shares = zip(*measure_arrivals(job, split), strict=True)
    assert list(ends) == [segment.stop for segment in arena.segments.values()][: len(arena.trainable)]
    assert all(0 < before <= after <= 1 for before, after in pairwise(shares))
    assert shares[-1] == 1, "the unused layer lies before the last in the arena: all behind it wait for the end"
    known: dict[str, Any] = {}
    device = Device(seconds_per_sample=1e-3, seconds_per_update=1e-3)
    costs = costs_of(job, {}, split, device, known)
    assert (costs.compute_seconds, costs.update_seconds, costs.measured) == (8e-3, 1e-3, ())
    assert costs_of(job, {}, split, device, known) is not costs
    assert costs_of(job, {}, split, device, known) == costs
    assert costs.to_json(8)["forward_share"] == costs.arrivals[0][1]
    assert not costs_of(Job(model=UNEVEN, batch_size=8), {}, split, device, {}).arrivals


def test_jitter_makes_a_step_longer_as_a_whole() -> None:
    def body(comm: Communicator) -> list[list[float]]:
        charges, found = Charges(comm, Costs(1.0, 0.0, arrivals=((10, 0.5), (20, 0.75), (30, 0.875))), 0.2, 7), []
        for _ in range(5):
            began = comm.now()
            times = [comm.now() - began for _ in charges.backward([10, 20, 25, 40])]
            found.append([*times, comm.now() - began])
        return found

    for *times, whole in VirtualWorld(1).run(body)[0]:
        assert times == pytest.approx([0.5 * whole, 0.75 * whole, 0.875 * whole, whole])
    plain = VirtualWorld(1).run(lambda comm: [Charges(comm, Costs(1.0, 0.0), 0.2, 7).compute(), comm.now()])[0][1]
    assert plain == pytest.approx(VirtualWorld(1).run(body)[0][0][-1]), "the same seed, the same step"


# -- real ranks ------------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_real_ranks(ranks: int) -> None:
    done = mpiexec(ranks, "tests.training.overlap_ranks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"laws of overlap kept on {ranks} ranks" in done.stdout


@pytest.mark.cluster
def test_strategies_with_overlap_on_a_cluster(tmp_path: Path) -> None:
    with Cluster(2, folder=tmp_path) as cluster:
        for name in OVERLAPPED:
            job = Job(model="resnet20", data="digits", batch_size=16, steps=3, strategy={"kind": name, "overlap": True, "bucket_bytes": 100_000})
            done = cluster.train(job).wait(120)
            assert done.status == "done"
            steps = read_table(done.folder, "steps")
            assert (steps["hidden_seconds"] > 0).all()
