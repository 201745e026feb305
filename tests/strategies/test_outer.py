"""Outer optimizers against their papers' rules, written again in NumPy: the centre, the workers that go on from it, the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of
from workbench import Device, Job, VirtualCluster
from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.virtual import VirtualWorld
from workbench.recipes import OUTERS, Nesterov, SlowMo
from workbench.recipes.sgd import SGD
from workbench.strategies import Synchronous, Worker

STEPS = 8
MOMENTUM = 0.5  # of the workers


def nesterov(outer: Nesterov, x: np.ndarray, m: np.ndarray, mean: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """DiLoCo: (x~, m) after an outer step."""
    m = outer.momentum * m + (x - mean)
    return x - outer.learning_rate * ((x - mean) + outer.momentum * m), m


def slow_momentum(outer: SlowMo, x: np.ndarray, u: np.ndarray, mean: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """SlowMo: (x, u) after an outer step."""
    u = outer.momentum * u + (x - mean) / rate
    return x - outer.learning_rate * rate * u, u


RULES: dict[type, Any] = {Nesterov: nesterov, SlowMo: slow_momentum}
VALUES = {"nesterov": Nesterov(), "nesterov, other": Nesterov(0.4, 0.6), "slowmo": SlowMo(), "slowmo, other": SlowMo(0.8, 0.7)}
FORMS = {
    "each step": ({}, lambda step: True, 0),
    "local": ({"every": 3}, lambda step: step % 3 == 2, 0),
    "post-local": ({"every": 3, "local_from": 4}, lambda step: step < 4 or step == 5, 4),
}
"""Form -> (options, whether workers meet after a step of the first 8, the first step with an outer one)."""


def test_every_entry_of_the_table_has_its_rule_here() -> None:
    assert set(OUTERS.values()) == set(RULES) == {type(outer) for outer in VALUES.values()}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", range(1, 8))
def test_the_centre_and_those_who_go_on_from_it(size: int, form: str, value: str) -> None:
    """v_i <- mu v_i + g_i; x_i <- x_i - eta v_i; now and then, and at the end, an outer step and x_i <- x~. The last period is cut short."""
    outer, (options, meets, first) = VALUES[value], FORMS[form]
    trajectories, exchanges = play(Synchronous(outer=outer, **options), size, STEPS, watch=lambda live: live, same_start=True, momentum=MOMENTUM)
    x = np.tile(start_of(0).astype(np.float64), (size, 1))
    v, centre, gathered = np.zeros_like(x), x[0].copy(), np.zeros(12)
    for step in range(STEPS):
        v = MOMENTUM * v + [gradient_of(index, step) for index in range(size)]
        x = x - RATE * v
        if meets(step):
            centre, gathered = RULES[type(outer)](outer, centre, gathered, x.mean(axis=0), RATE) if step >= first else (x.mean(axis=0), gathered)
            x[:] = centre
        for index, trajectory in enumerate(trajectories):
            np.testing.assert_allclose(trajectory[step + 1], x[index], rtol=1e-4, atol=1e-5)
    if not meets(STEPS - 1):
        centre, _ = RULES[type(outer)](outer, centre, gathered, x.mean(axis=0), RATE)
    np.testing.assert_allclose(exchanges[0].centre.numpy(), centre, rtol=1e-4, atol=1e-5)
    for trajectory, exchange in zip(trajectories, exchanges, strict=True):
        assert np.array_equal(exchange.centre.numpy(), exchanges[0].centre.numpy()), "every worker keeps the same centre, to the bit"
        assert np.array_equal(exchange.centre.numpy(), trajectory[-1])


@pytest.mark.parametrize("wire", ["float32", "float16"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_whole_step_without_momentum_is_the_plain_mean(size: int, wire: str) -> None:
    """Number for number, as long as there is a mean to take; at the end the centre takes in what is left."""
    outer = Nesterov(learning_rate=1.0, momentum=0.0)
    plain, _ = play(Synchronous(average="parameters", every=3, wire=wire), size, STEPS, same_start=True)
    centred, _ = play(Synchronous(every=3, wire=wire, outer=outer), size, STEPS, same_start=True)
    for one, other in zip(plain, centred, strict=True):
        assert np.array_equal(one[:-1], other[:-1])
        np.testing.assert_allclose(other[-1], np.mean([each[-1] for each in plain], axis=0), rtol=5e-7 if wire == "float32" else 2e-3, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 3, 6])
def test_an_end_where_workers_have_just_met_changes_nothing(steps: int) -> None:
    trajectories, exchanges = play(Synchronous(every=3, outer=Nesterov()), 3, steps, watch=lambda live: live, same_start=True)
    for trajectory, exchange in zip(trajectories, exchanges, strict=True):
        assert np.array_equal(trajectory[-1], trajectory[-2])
        assert np.array_equal(exchange.centre.numpy(), trajectory[-1])


def test_slow_momentum_weighs_what_was_gathered_by_the_rate_of_now() -> None:
    """A centre that has gathered at 0.4 moves a quarter as far by it at 0.1; at 0 nothing moves."""
    outer, centre, velocity = SlowMo(learning_rate=1.0, momentum=0.5), torch.tensor([1.0]), torch.zeros(1)
    outer.step(centre, velocity, torch.tensor([0.6]), 0.4)
    assert (centre.item(), velocity.item()) == pytest.approx((0.6, 1.0))
    outer.step(centre, velocity, torch.tensor([0.6]), 0.1)
    assert (centre.item(), velocity.item()) == pytest.approx((0.55, 0.5))
    outer.step(centre, velocity, torch.tensor([0.55]), 0.0)
    assert (centre.item(), velocity.item()) == pytest.approx((0.55, 0.5))


def test_statistics_and_frozen_parameters_have_the_mean_and_no_momentum() -> None:
    outer, rounds, size = Nesterov(), 3, 3

    def number(rank: int, turn: int) -> float:
        return float(rank * rank + 10 * turn)

    def body(comm: Communicator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        layer = nn.Linear(2, 2)
        layer.bias.requires_grad_(False)
        arena = Arena(nn.Sequential(layer, nn.BatchNorm1d(2)))
        arena.state.fill_(1.0)
        worker = Worker(arena, arena.module, SGD(), 1, lambda: RATE, np.random.default_rng(0), comm.rank, comm.size)
        exchange = Synchronous(every=1, outer=outer).exchange(comm, worker)
        seen = []
        for turn in range(rounds):
            arena.parameters.fill_(-number(comm.rank, turn))
            arena.buffers.fill_(number(comm.rank, turn))
            exchange.after_update()
            worker.step += 1
            assert exchange.centre is not None
            assert torch.equal(exchange.centre, arena.state)
            seen.append((arena.parameters.numpy().copy(), arena.state[8:10].numpy().copy(), arena.buffers.numpy().copy()))
        return seen

    for seen in VirtualWorld(size, NETWORK).run(body):
        centre, gathered = np.ones(8), np.zeros(8)
        for turn, (parameters, frozen, buffers) in enumerate(seen):
            mean = np.mean([number(rank, turn) for rank in range(size)])
            centre, gathered = nesterov(outer, centre, gathered, np.full(8, -mean), RATE)
            np.testing.assert_allclose(parameters, centre, rtol=1e-5)
            np.testing.assert_allclose(frozen, 1.0, rtol=1e-6)
            np.testing.assert_allclose(buffers, mean, rtol=1e-6)


def test_an_outer_optimizer_averages_parameters_and_travels_as_json() -> None:
    made = Synchronous(every=500, outer=Nesterov())
    assert made.average == "parameters"
    assert made == Synchronous(every=500, outer="nesterov") == Synchronous(every=500, outer={"kind": "nesterov"}, average="parameters")
    assert made.replace(outer=None) == Synchronous(every=500, average="parameters")
    for strategy in (made, Synchronous(), Synchronous(outer=SlowMo(momentum=0.25))):
        job = Job(strategy=strategy)
        told = json.loads(json.dumps(job.to_json()))
        assert Job.from_json(told) == job
    assert Job(strategy=made).to_json()["strategy"]["outer"] == {"kind": "nesterov", "learning_rate": 0.7, "momentum": 0.9}
    assert Job().to_json()["strategy"]["outer"] is None


def test_the_cost_is_that_of_the_mean() -> None:
    plain = Synchronous(every=10, average="parameters")
    assert plain.replace(outer=Nesterov()).seconds(10**6, 4, NETWORK) == plain.seconds(10**6, 4, NETWORK)


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match=r"Nesterov\(learning_rate=0\): learning_rate must be a number above 0, got 0"):
        Nesterov(learning_rate=0)
    with pytest.raises(ValueError, match=r"SlowMo\(momentum=1.5\): momentum must be a number in \[0, 1\], got 1.5"):
        SlowMo(momentum=1.5)
    with pytest.raises(ValueError, match="unknown outer 'nestrov'; did you mean 'nesterov'"):
        Synchronous(outer="nestrov")
    with pytest.raises(ValueError, match=r"outer must be a value, got the class; did you mean Nesterov\(\)"):
        Synchronous(outer=Nesterov)
    with pytest.raises(ValueError, match=r"overlap is for average='gradients', got outer=Nesterov\(.*\), which averages parameters"):
        Synchronous(outer=Nesterov(), overlap=True)
    with pytest.raises(ValueError, match=r"TopK leaves out most .* give average='gradients' and no outer, or a wire"):
        Synchronous(outer=Nesterov(), wire="top-k")
    with pytest.raises(ValueError, match="local_from is for every above 1, got every=1"):
        Synchronous(outer=Nesterov(), local_from=5)


def test_a_whole_run_ends_with_its_centre(tmp_path: Path) -> None:
    """An epoch of 11 steps and a bit, an outer step every 4: validated between two of them, and it ends between two."""
    device = Device(seconds_per_sample=1e-4, seconds_per_update=1e-4)
    job = Job(model="resnet20", data="digits", batch_size=64, steps=14, strategy=Synchronous(every=4, outer=Nesterov()))
    with VirtualCluster(2, device=device, folder=tmp_path) as cluster:
        run = cluster.train(job).wait(120)
    assert run.status == "done"
    final, centre = (torch.load(next((run.folder / "checkpoints").glob(f"{which}-*.pt")), weights_only=True) for which in ("final", "centre"))
    assert all(torch.equal(final[name], centre[name]) for name in centre)
    assert all(torch.equal(tensor.detach(), centre[name]) for name, tensor in run.model().named_parameters())
    answers = run.rows("validation")
    assert answers["step"][answers["rank"] < 0].tolist() == [10, 13]
