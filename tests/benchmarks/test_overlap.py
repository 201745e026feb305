"""The benchmark of overlap: what it calls hidden, and when it compares with DDP."""

from __future__ import annotations

import math

import pytest

from workbench.benchmarks.overlap import BATCH, alone, averaging, beside_ddp, hidden, job_of, measure
from workbench.comm.network import Network

NETWORK = Network.of("1G")


def rounds(**seconds: float) -> dict[str, list[float]]:
    """Three rounds of a machine that becomes slower: differences stay."""
    named = {"none": 0.1, "none again": 0.1, "False 1048576": 0.19, "True 1048576": 0.127, "backward": 0.2} | seconds
    return {name: [value, value + 0.5, value + 1.0] if name != "backward" else [value] * 3 for name, value in named.items()}


def test_the_hidden_share_is_of_the_exchange_where_backward_is_longer() -> None:
    figure = hidden("here", 1 << 20, rounds(), NETWORK)
    assert figure.value == pytest.approx(70.0)  # 63 of 90 ms
    assert (figure.target, figure.met) == (">= 60", True)
    assert "A/A +0.0 ms" in figure.detail


def test_the_hidden_share_is_of_backward_where_the_exchange_is_longer() -> None:
    figure = hidden("here", 1 << 20, rounds(**{"backward": 0.05, "True 1048576": 0.165}), NETWORK)
    assert figure.value == pytest.approx(50.0)  # 25 of 50 ms
    assert figure.met is False


def test_without_emulation_it_has_no_target_and_where_nothing_costs_anything_no_value() -> None:
    assert hidden("here", 1 << 20, rounds(), None).met is None
    figure = hidden("here", 1 << 20, rounds(**{"False 1048576": 0.09}), NETWORK)
    assert math.isnan(figure.value)
    assert figure.met is False


def test_the_best_buckets_of_both_are_compared() -> None:
    seconds = rounds() | {"DDP 1 MiB": [0.2], "DDP 25 MiB": [0.16]}
    (figure,) = beside_ddp("here", (1 << 20,), {"DDP 1 MiB": None, "DDP 25 MiB": None}, seconds, 2)
    assert figure.value == pytest.approx(0.16 / 0.627)  # the overlapped loop's median round
    assert f"DDP 25 MiB {2 * BATCH / 0.16:.1f}" in figure.detail
    assert beside_ddp("here", (1 << 20,), {}, seconds, 2) == []


def test_what_is_compared_differs_in_the_exchange_alone() -> None:
    plain, overlapped = averaging(1 << 20, False), averaging(1 << 20, True)
    assert plain.replace(overlap=True) == overlapped
    assert (overlapped.during_backward, plain.during_backward, alone().during_backward) == (True, False, False)
    assert alone().period == 10**9
    assert job_of(plain).replace(strategy=overlapped) == job_of(overlapped)


def test_a_network_that_there_is_not_is_said_before_ranks_start() -> None:
    with pytest.raises(ValueError, match="'1T'"):
        measure(quick=True, network="1T")
