"""Sufficient factors: the mean of what autograd says, to rounding; the same bits everywhere; the bytes that were promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.laws import allowed
from tests.mpi.test_laws import mpiexec
from tests.strategies.factored import hold_to_the_mean, learn, mlp, squares, ways
from tests.strategies.world import NETWORK, RATE
from workbench.arena import Arena
from workbench.cluster.virtual import VirtualCluster
from workbench.collectives import PORTABLE, Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Device
from workbench.comm.virtual import VirtualWorld
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.strategies import SufficientFactors, Worker
from workbench.strategies.factors import linear_layers
from workbench.strategies.sufficient_factors import factor_bytes, factor_seconds
from workbench.wires import Float32

POSEIDON = [
    (32, (4096, 21841), 8, 11.6, 313),
    (32, (4096, 21841), 32, 51.5, 347),
    (32, (25088, 4096), 32, 57.9, 398),
    (32, (4096, 1000), 32, 10.1, 15.9),
]
"""Rows, layer, nodes (each worker and server), millions of numbers through a node as factors and whole (the costs of Zhang et al., 2017)."""


@pytest.mark.parametrize("choice", ["auto", "always", "never"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_mean_and_the_same_bits(choice: str, size: int) -> None:
    everyone = learn(SufficientFactors(choice=choice), size)
    hold_to_the_mean(everyone)
    expected = {
        "auto": {"0.weight": "factors", "3.weight": "factors", "5.weight": "whole"},
        "always": dict.fromkeys(("0.weight", "3.weight", "5.weight"), "factors"),
        "never": {},
    }
    if size in (2, 3, 4):  # with more ranks factors no longer pay for layers as small as these
        assert ways(everyone[0]) == expected[choice]


@pytest.mark.parametrize("name", PORTABLE)
def test_any_collective_takes_the_rest_and_float64_works(name: str) -> None:
    if allowed(PORTABLE[name](), Float32(), 4):
        hold_to_the_mean(learn(SufficientFactors(collective=name), 4, dtype=torch.float64))


def test_inputs_of_any_shape_and_layers_that_share_a_name_with_none() -> None:
    """The model itself is one linear layer; a row is whatever it is applied to."""
    everyone = learn(SufficientFactors(), 3, build=lambda: nn.Linear(24, 48), shape=(2, 3, 24), rows=lambda rank, step: 1)
    hold_to_the_mean(everyone)
    assert everyone[0].notes[0] == {"weight": "48x24, 6 rows: factors, 3.5 kB instead of 6.1 kB a step"}


def test_unequal_rows_are_filled_with_nothing() -> None:
    """Ranks have batches of their own sizes, which change, up to the largest of the first step."""
    everyone = learn(SufficientFactors(choice="always"), 3, rows=lambda rank, step: (5, 3, 2)[(rank + step) % 3])
    hold_to_the_mean(everyone)
    assert set(ways(everyone[0]).values()) == {"factors"}


def test_more_rows_than_at_first_send_the_layer_whole_from_then_on() -> None:
    everyone = learn(SufficientFactors(choice="always"), 3, rows=lambda rank, step: 9 if (rank, step) == (1, 2) else 4, steps=5)
    hold_to_the_mean(everyone)
    assert set(ways(everyone[0], 1).values()) == {"factors"}
    for seen in everyone:
        assert seen.notes[2]["0.weight"] == "whole from step 2 on: a worker used it differently than in the first step"
        assert set(ways(seen).values()) == {"whole"}


class Odd(nn.Module):
    """Linear layers that are not used once as such."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.never, self.frozen = nn.Linear(24, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.tied, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.tied.weight
        self.besides, self.punished, self.plain = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.frozen.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tied(self.other(self.frozen(self.twice(self.twice(self.first(input=x))))))
        return self.plain(self.punished(self.besides(x) + x @ self.besides.weight))


def test_what_is_not_a_product_goes_by_the_collective() -> None:
    def loss_of(module: nn.Module, inputs: torch.Tensor, step: int) -> torch.Tensor:
        assert isinstance(module, Odd)
        return module(inputs).square().mean() + 1e-2 * module.punished.weight.square().sum()

    everyone = learn(SufficientFactors(choice="always"), 2, build=Odd, loss_of=loss_of)
    hold_to_the_mean(everyone)
    odd = dict.fromkeys(("twice.weight", "never.weight", "besides.weight", "punished.weight"), "whole")
    assert ways(everyone[0]) == odd | {"first.weight": "factors", "plain.weight": "factors"}


def test_a_penalty_that_begins_later_is_noticed() -> None:
    def loss_of(module: Any, inputs: torch.Tensor, step: int) -> torch.Tensor:
        return squares(module, inputs, step) + (1e-3 * module[3].weight.square().sum() if step >= 2 else 0)

    everyone = learn(SufficientFactors(choice="always"), 2, loss_of=loss_of, steps=4)
    hold_to_the_mean(everyone)
    assert set(ways(everyone[0], 1).values()) == {"factors"}
    assert ways(everyone[0]) == {"0.weight": "factors", "3.weight": "whole", "5.weight": "factors"}


def test_a_penalty_on_any_row_is_noticed_at_once() -> None:
    def loss_of(module: Any, inputs: torch.Tensor, step: int) -> torch.Tensor:
        return squares(module, inputs, step) + (module[3].weight[12 + step].square().sum() if step >= 1 else 0)

    everyone = learn(SufficientFactors(choice="always"), 2, loss_of=loss_of)
    hold_to_the_mean(everyone)
    assert everyone[0].notes[1]["3.weight"] == "whole from step 1 on: a worker used it differently than in the first step"


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("begins", [0, 1])
def test_a_small_penalty_is_noticed(power: int, begins: int) -> None:
    """A millionth of the weights beside gradients of a usual size."""

    def loss_of(module: Any, inputs: torch.Tensor, step: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(module(inputs), torch.arange(len(inputs)) % 10)
        return loss + (1e-6 * module[0].weight.abs().pow(power).sum() if step >= begins else 0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    everyone = learn(SufficientFactors(choice="always"), 2, build=build, loss_of=loss_of, rows=lambda rank, step: 32, shape=(512,), steps=begins + 1)
    assert ways(everyone[0]) == {"0.weight": "whole", "2.weight": "factors"}


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "usual": lambda x: x,
    "of one sign": torch.abs,
    "far from zero": lambda x: x + 10,
    "all the same": lambda x: x[:1].expand_as(x),
}
"""Rows that round differently when they are added."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_taken_for_another_use(kind: str, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    for (outputs, inputs), rows, scale in product([(100, 37), (37, 300), (1, 50), (50, 1)], (1, 5, 40), (1e-25, 1, 1e15)):
        arena = Arena(nn.Linear(inputs, outputs, bias=False).to(dtype))
        (layer,) = linear_layers(arena.module, arena)
        for _ in range(10):
            arena.clear()
            batch, upward = (KINDS[kind](torch.randn(rows, width, generator=random, dtype=dtype)) for width in (inputs, outputs))
            arena.module(scale * batch).backward(upward)
            arena.heal()
            assert not layer.other_way, (outputs, inputs, rows, scale)
            layer.calls = 0
        layer.close()
        (layer,) = linear_layers(arena.module, arena)
        arena.clear()
        arena.module(scale * batch).backward(upward)
        arena.heal()
        layer.gradient[-1] += 0.01 * layer.gradient.abs().max()
        assert layer.other_way, (outputs, inputs, rows, scale)
        layer.close()


class Sometimes(nn.Module):
    """A layer that one rank skips, or uses twice, at some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.extra = nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.extra(self.base(x))


def test_a_layer_that_is_skipped_adds_nothing_and_one_used_twice_later_goes_whole() -> None:
    def skipping(module: Any, inputs: torch.Tensor, step: int) -> torch.Tensor:
        x = module.base(inputs)
        return (x if step == 1 else module.extra(x)).square().mean()

    def repeating(module: Any, inputs: torch.Tensor, step: int) -> torch.Tensor:
        x = module.extra(module.base(inputs))
        return (module.extra(x) if step == 1 else x).square().mean()

    everyone = learn(SufficientFactors(choice="always"), 3, build=Sometimes, loss_of=skipping)
    hold_to_the_mean(everyone)
    assert ways(everyone[0]) == {"base.weight": "factors", "extra.weight": "factors"}
    everyone = learn(SufficientFactors(choice="always"), 3, build=Sometimes, loss_of=repeating)
    hold_to_the_mean(everyone)
    assert ways(everyone[0]) == {"base.weight": "factors", "extra.weight": "whole"}


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_sends_the_bytes_that_it_says(size: int) -> None:
    """Factors of the two large layers, and the ring for the rest: biases, batch norm and the last layer."""
    everyone = learn(SufficientFactors(), size)
    parameters = sum(p.numel() for p in mlp().parameters())
    whole = 4 * (parameters - 24 * 32 - 32 * 40)
    factors = factor_bytes(4, (32, 24), size) + factor_bytes(4, (40, 32), size)
    sent = sum(seen.bytes[1] for seen in everyone)
    assert sent == size * factors + Ring().bytes_sent(whole, size)
    assert "factors, " in everyone[0].notes[0]["0.weight"]


def test_auto_is_never_more_bytes_than_the_collective() -> None:
    for size in (2, 5, 8):
        sent = [sum(seen.bytes[1] for seen in learn(SufficientFactors(choice=choice), size, steps=2)) for choice in ("auto", "never", "always")]
        assert sent[0] <= min(sent[1:])


def test_a_layer_costs_what_its_messages_do() -> None:
    """(P-1) K (M+N) numbers on one link, and the product at the rate that is given."""
    assert factor_seconds(32, (4096, 4096), 1, NETWORK) == 0
    wire = factor_seconds(32, (4096, 4096), 4, NETWORK)
    assert wire == pytest.approx(NETWORK.latency + 3 * 32 * 8192 * 4 / NETWORK.bandwidth)
    assert factor_seconds(32, (4096, 4096), 4, NETWORK, flops=1e9) == pytest.approx(wire + 2 * 4 * 32 * 4096**2 / 1e9)


def test_the_virtual_clock_shows_what_the_formula_says() -> None:
    size, rows = 4, 8

    def body(comm: Communicator) -> float:
        arena = Arena(nn.Linear(64, 64, bias=False))
        worker = Worker(arena, arena.module, SGD(), 1, lambda: RATE, np.random.default_rng(0), comm.rank, comm.size)
        exchange = SufficientFactors().exchange(comm, worker)
        took = 0.0
        for _ in range(2):
            arena.clear()
            arena.module(torch.ones(rows, 64)).sum().backward()
            start = comm.now()
            exchange.before_update()
            took = comm.now() - start
        return took

    assert max(VirtualWorld(size, NETWORK).run(body)) == pytest.approx(factor_seconds(rows, (64, 64), size, NETWORK), rel=0.01)


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match="choice must be one of 'auto', 'always', 'never', got 'sometimes'"):
        SufficientFactors(choice="sometimes")


def test_whole_runs_train_as_synchronous_does_and_say_what_was_decided(tmp_path: Path) -> None:
    device = Device(seconds_per_sample=1e-4, seconds_per_update=1e-4)
    with VirtualCluster(2, network="1G", device=device, folder=tmp_path) as cluster:
        for model in ("mlp", "cnn"):
            job = Job(model=model, data="digits", batch_size=8, steps=90)
            plain, factored = (cluster.train(replace(job, strategy=kind)).wait(60) for kind in ("synchronous", "sufficient-factors"))
            losses = [run.rows("steps")["loss"].astype(float) for run in (plain, factored)]
            np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
            assert plain.summary()["layers"] == {}
            assert factored.summary()["bytes_per_step"] < plain.summary()["bytes_per_step"]
    assert factored.events()["kind"].tolist().count("exchange") == 1
    assert factored.summary()["layers"] == {"7.weight": "10x128, 8 rows: factors, 4.4 kB instead of 5.1 kB a step"}


@pytest.mark.parametrize(("rows", "shape", "size", "factors", "whole"), POSEIDON)
def test_the_choice_is_that_of_poseidon(rows: int, shape: tuple[int, int], size: int, factors: float, whole: float) -> None:
    """Ring sends and receives what a node does that is worker and server: the same two numbers are compared."""
    assert 2 * factor_bytes(rows, shape, size) / 4e6 == pytest.approx(factors, abs=0.06)
    assert 2 * Ring().bytes_sent(4 * shape[0] * shape[1], size) / size / 4e6 == pytest.approx(whole, abs=0.6)


@pytest.mark.mpi
def test_real_ranks() -> None:
    done = mpiexec(3, "tests.strategies.factored")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the mean on 3 ranks" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here (torch.cuda.is_available() is False)")
def test_factors_of_a_cuda_device() -> None:
    """Through pinned memory; on the same device the product has the same bits."""
    everyone = learn(SufficientFactors(), 3, rows=lambda rank, step: 4 - (rank + step) % 2, device="cuda")
    hold_to_the_mean(everyone)
    assert ways(everyone[0])["0.weight"] == "factors"
