"""What strategies that do not wait are measured by: which steps count as lost time, and the picture of loss against seconds."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from workbench.benchmarks import curves, stragglers
from workbench.benchmarks.drawing import Axes, ones_and_threes, round_numbers, svg
from workbench.store import Rows
from workbench.strategies import Synchronous
from workbench.telemetry import STEPS


def rows(seconds: dict[int, float], steps: int, beginning: float = 0.0) -> Rows:
    """Workers whose steps take so long, of which the first ten take `beginning`."""
    taken = np.zeros((len(seconds), steps), STEPS)
    for place, (rank, each) in enumerate(seconds.items()):
        lengths = np.where(np.arange(steps) < stragglers.FIRST, beginning, each)
        taken[place]["rank"], taken[place]["step"] = rank, np.arange(steps)
        taken[place]["start_seconds"] = np.append(0.0, np.cumsum(lengths))[:-1]
        taken[place]["compute_seconds"] = lengths / 4
        taken[place]["exchange_seconds"] = 3 * lengths / 4
        taken[place]["loss"] = 1 / (1 + taken[place]["start_seconds"])
    return taken.ravel()


def test_a_step_is_that_of_the_fast_workers_after_their_first_ones() -> None:
    assert stragglers.step_seconds(rows({0: 0.2, 1: 0.1, 3: 5.0}, 20, beginning=9.0)) == pytest.approx(0.15)


def test_what_fast_workers_do_when_the_straggler_is_done_does_not_count() -> None:
    steps = rows({0: 1.0, 3: 1.0}, 40)
    late = (steps["rank"] == 0) & (steps["step"] >= 30)
    steps["start_seconds"][late] += 100.0
    steps["compute_seconds"][late] += 100.0
    assert stragglers.step_seconds(steps) == pytest.approx(1.0)


def test_lost_is_in_percent_of_a_step_without_a_straggler() -> None:
    figure = stragglers.figure("real", "gossip", [0.020, 0.021, 0.5], [0.022, 0.02205, 0.001])
    assert (figure.value, figure.target, figure.met) == (pytest.approx(100 * (22 / 21 - 1)), "<= 5", True)
    assert stragglers.figure("real", "elastic", [0.02], [0.03]).met is False
    assert stragglers.figure("real", "synchronous", [0.02], [0.08]).met is None
    assert set(stragglers.WAITING) < set(stragglers.strategies())


def test_every_strategy_has_four_workers_and_what_differs_is_the_straggler() -> None:
    for strategy in stragglers.strategies().values():
        ranks = stragglers.ranks_of(strategy)
        with_one, without = (stragglers.job_of(strategy, 30, slow) for slow in (True, False))
        with_one.check(ranks)
        assert strategy.roles(ranks).count("worker") == stragglers.WORKERS
        assert without.replace(slow={stragglers.STRAGGLER: stragglers.FACTOR}) == with_one


def test_a_straggler_on_virtual_ranks_costs_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stragglers, "strategies", lambda: {"synchronous": Synchronous()})
    (figure,) = stragglers.virtual(12)
    # computed: 20 and 80 ms; exchanged: a ring of 4 whose messages carry a quarter of 4,810 numbers at 1 Gbit/s
    exchange = 6 * (50e-6 + 4810 * 4 / 4 / 125e6)
    assert figure.value == pytest.approx(100 * ((0.08 + exchange) / (0.02 + exchange) - 1), rel=0.01)


def test_a_point_of_a_line_is_the_mean_loss_about_then() -> None:
    seconds, losses = curves.curve(rows({0: 0.01, 1: 0.02}, 500))
    assert (np.diff(seconds) > 0).all()
    inner = (seconds > 0.3) & (seconds < 4.5)
    np.testing.assert_allclose(losses[inner], 1 / (1 + seconds[inner]), rtol=0.03)
    assert curves.reached((seconds, losses)) == pytest.approx(1 / curves.REACHED - 1, rel=0.05)
    assert np.isnan(curves.reached((seconds[:2], losses[:2])))


def test_a_picture_has_axes_units_and_every_line_where_its_numbers_are(tmp_path: Path) -> None:
    x = np.array([0.0, 1.0, 2.0, 9.0])
    axes = Axes("x [s]", "loss & more", 4.0, 0.01, 1.0)
    text = svg(axes, {"one": {"a < b": (x, np.array([1.0, 0.1, 0.01, 0.5]))}, "two": {"a < b": (x, x + 1e-4), "c": (x, np.full(4, np.nan))}})
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in root.iter(f"{space}text")]
    assert words.count("a < b") == 1
    assert {"x [s]", "loss & more", "one", "two", "c", "0.03", "0.5", "4"} <= set(words)
    first, *_ = [element.attrib["points"] for element in root.iter(f"{space}polyline")]
    right, middle, low = axes.across(4.0), axes.down(0.1), axes.down(0.01)
    assert (middle, low) == (pytest.approx(150.0), pytest.approx(300.0))
    assert first == f"0.0,0.0 {right / 4:.1f},{middle:.1f} {right / 2:.1f},{low:.1f}"  # what is right of the axes is left out
    assert not re.search("nan|inf", text)


@pytest.mark.parametrize(("right", "ticks"), [(5.0, 11), (20.0, 11), (0.3, 7), (1.0, 11)])
def test_ticks_are_round_and_few(right: float, ticks: int) -> None:
    numbers = round_numbers(right)
    assert (len(numbers), numbers[0], numbers[-1]) == (ticks, 0.0, pytest.approx(right))
    assert ones_and_threes(0.01, 3.0) == pytest.approx([0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
