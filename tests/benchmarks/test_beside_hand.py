"""Benchmarks in which real ranks talk to each other beside the same by hand come to their end, and tell what they promise."""

from __future__ import annotations

import math

import pytest

from workbench.benchmarks.figures import Figure
from workbench.benchmarks.ranks import told


@pytest.mark.parametrize(
    ("ranks", "module", "targets"),
    [(4, "updates", [">= 0.9"]), (2, "gossip", ["<= 1.15", "", "", ""])],
    ids=["updates", "gossip"],
)
def test_ranks_tell_their_ratio_to_what_is_done_by_hand(ranks: int, module: str, targets: list[str]) -> None:
    figures = [Figure(**line) for line in told(ranks, f"workbench.benchmarks.{module}", "--quick")]
    assert [figure.target for figure in figures] == targets
    assert all(math.isfinite(figure.value) and figure.value > 0 for figure in figures)
