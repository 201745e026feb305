from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.document.events import ColumnDataChangedEvent, ColumnsPatchedEvent, ColumnsStreamedEvent, ModelChangedEvent
from bokeh.models.annotations import ColorBar
from bokeh.protocol import Protocol

from workbench.plots import PLOTS, DriftPlot, LossPlot, PhasesPlot, StalenessPlot, ThroughputPlot, TrafficPlot, plots_of
from workbench.plots.bins import SLOTS, Bins
from workbench.plots.colours import colours_of
from workbench.plots.lines import RankLines
from workbench.telemetry import COLUMNS, SKETCH, STEPS, TRAFFIC, VALIDATION

SECONDS = 0.05

UNITS = {
    "loss": "loss",
    "throughput": "samples/s",
    "phases": "ms",
    "staleness": "updates or steps old",
    "drift": "distance from the mean",
    "traffic": "from rank",
}


def records(ranks: int, first: int, count: int, seed: int = 0) -> np.ndarray:
    """Steps of all ranks, in the order in which they happen."""
    rows = np.zeros(ranks * count, STEPS)
    rows["rank"] = np.tile(np.arange(ranks), count)
    rows["step"] = first + np.repeat(np.arange(count), ranks)
    rng = np.random.default_rng([seed, first])
    rows["loss"] = 2 / (1 + rows["step"]) + rng.random(len(rows))
    rows["samples"] = 32
    rows["start_seconds"] = rows["step"] * SECONDS
    rows["load_seconds"] = 0.001
    rows["compute_seconds"] = rng.uniform(0.01, 0.03, len(rows))
    rows["update_seconds"] = 0.002
    rows["exchange_seconds"] = SECONDS - 0.003 - rows["compute_seconds"]
    rows["staleness"] = rng.integers(0, 4, len(rows))
    rows["sketch"] = np.where(rows["step"][:, None] % 5 == 0, rng.normal(size=(len(rows), SKETCH)), np.nan)
    return rows


def messages(ranks: int, *steps: int) -> np.ndarray:
    """What each rank has sent to the next one, at these steps."""
    rows = np.zeros(ranks * len(steps), TRAFFIC)
    rows["rank"], rows["step"] = np.tile(np.arange(ranks), len(steps)), np.repeat(steps, ranks)
    rows["peer"], rows["bytes"], rows["messages"] = (rows["rank"] + 1) % ranks, 1000 + rows["rank"], 2
    return rows


def validations(*steps: int) -> np.ndarray:
    rows = np.zeros(len(steps), VALIDATION)
    rows["rank"], rows["step"], rows["loss"], rows["accuracy"] = -1, steps, 0.5, 0.75
    return rows


def drawn(plot: Any) -> dict[str, np.ndarray]:
    """All numbers that a plot shows."""
    result = {}
    for index, renderer in enumerate(plot.root.renderers):
        for name, values in renderer.data_source.data.items():
            if name not in ("colour", "dash", "label", "model", "senders", "receivers"):
                result[f"{index} {name}"] = np.array([np.asarray(value, float) for value in values])
    return result


class Listener:
    """Stands where the view stands: sees what would be sent."""

    def __init__(self, *plots: Any) -> None:
        self.events: list[Any] = []
        document = Document()
        for plot in plots:
            document.add_root(plot.root)
        document.on_change_dispatch_to(self)

    def _document_patched(self, event: Any) -> None:
        self.events.append(event)

    def message(self) -> str:
        events, self.events = self.events, []
        return Protocol().create("PATCH-DOC", events).content_json if events else ""


@pytest.mark.parametrize("name", list(PLOTS))
@pytest.mark.parametrize("ranks", [1, 2, 8, 9, 64, 65, 200])
def test_a_plot_is_a_named_figure_that_says_its_units(name: str, ranks: int) -> None:
    plot = PLOTS[name](ranks)
    assert plot.root.name == name
    for axis in (*plot.root.xaxis, *plot.root.yaxis):
        assert axis.axis_label
    assert any(UNITS[name] in axis.axis_label for axis in plot.root.yaxis)
    assert any(legend.items for legend in plot.root.legend) or "from blue to yellow" in plot.root.title.text or plot.root.select_one(ColorBar)
    assert any(type(tool).__name__ == "HoverTool" for tool in plot.root.tools)
    assert plot.root.renderers[0].data_source is plot.source
    plot.update(records(ranks, 0, 3), validations(2), messages(ranks, 2))
    plot.update(records(ranks, 3, 0))
    document = Document()
    document.add_root(plot.root)
    assert document.to_json(deferred=False)
    document.validate()


@pytest.mark.parametrize("name", list(PLOTS))
@pytest.mark.parametrize("ranks", [1, 3, 65])
@pytest.mark.parametrize("steps", [5, 399, 400, 1000])
def test_batches_make_no_difference(name: str, ranks: int, steps: int) -> None:
    """However the rows are cut into batches, the picture is the same as when they come at once."""
    whole, parts = PLOTS[name](ranks), PLOTS[name](ranks)
    rows = np.concatenate([records(ranks, first, min(50, steps - first)) for first in range(0, steps, 50)])
    whole.update(rows, validations(*range(9, steps, 10)), messages(ranks, *range(0, steps, 20)))
    rng = np.random.default_rng(steps)
    cuts = np.sort(rng.integers(0, len(rows), 60))
    for part in np.split(rows, cuts):
        parts.update(part)
    parts.update(rows[:0], validations(*range(9, steps, 10)))
    for part in np.array_split(messages(ranks, *range(0, steps, 20)), 3):
        parts.update(rows[:0], traffic=part)
    for key, values in drawn(whole).items():
        np.testing.assert_allclose(drawn(parts)[key], values, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("ranks", [4, 64, 65])
def test_a_tick_is_a_small_patch(ranks: int) -> None:
    plots = [plot(ranks) for plot in PLOTS.values()]
    for plot in plots:
        plot.update(records(ranks, 0, 170), traffic=messages(ranks, *range(0, 170, 8)))
    listener = Listener(*plots)
    for tick in range(40):
        for plot in plots:
            plot.update(records(ranks, 170 + 2 * tick, 2), validations(tick), messages(ranks, 170 + 2 * tick)[: 0 if tick % 10 else None])
        kinds = {type(event) for event in listener.events}
        assert kinds <= {ColumnsPatchedEvent, ColumnsStreamedEvent}
        assert len(listener.message()) < 3000 + 600 * ranks


def test_slots_join_rarely_and_then_all_is_sent() -> None:
    plot = LossPlot(2)
    listener = Listener(plot)
    replaced = 0
    for step in range(3000):
        plot.update(records(2, step, 1))
        replaced += any(isinstance(event, ColumnDataChangedEvent | ModelChangedEvent) and event.attr == "data" for event in listener.events)
        listener.events.clear()
    assert replaced == 3
    assert plot.root.title.text == "Loss (mean of 8 steps)"


@pytest.mark.parametrize("steps", [1, 400, 401, 100_000])
def test_the_whole_run_stays_visible_in_the_same_memory(steps: int) -> None:
    plot = LossPlot(3)
    empty = sum(values.size for values in drawn(plot).values())
    for first in range(0, steps, 10_000):
        plot.update(records(3, first, min(10_000, steps - first)), validations(first))
    values = drawn(plot)
    lines = values["0 ys"]
    filled = np.flatnonzero(~np.isnan(lines[0]))
    width = values["0 xs"][0][1] - values["0 xs"][0][0]
    assert values["0 xs"][0][filled[0]] <= width
    assert abs(values["0 xs"][0][filled[-1]] - (steps - 1)) <= width
    assert len(filled) == -(-steps // width)
    assert len(filled) >= min(steps, SLOTS // 2)
    assert sum(value.size for name, value in values.items() if name.startswith("0")) <= empty


def test_each_slot_is_the_mean_of_its_steps() -> None:
    plot = LossPlot(2)
    rows = np.concatenate([records(2, first, 100) for first in range(0, 1000, 100)])
    plot.update(rows)
    shown = drawn(plot)
    for rank in range(2):
        loss = rows["loss"][rows["rank"] == rank]
        np.testing.assert_allclose(shown["0 ys"][rank][:250], loss.reshape(250, 4).mean(1), rtol=1e-5)
    np.testing.assert_allclose(shown["0 xs"][0][:3], [1.5, 5.5, 9.5])


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    rows = records(2, 0, 3)
    rows["loss"] = [1, np.nan, np.inf, 2, 3, 1e38]
    plot = LossPlot(2)
    plot.update(rows, validations(1, 2))
    lines = drawn(plot)["0 ys"]
    np.testing.assert_array_equal(lines[:, :3], np.float32([[1, np.nan, 3], [np.nan, 2, 1e38]]))


def test_many_validations_are_thinned_and_the_newest_stays() -> None:
    plot = LossPlot(1)
    for step in range(3 * SLOTS):
        plot.update(records(1, step, 0), validations(step))
    steps = list(plot.validation.data["step"])
    assert len(steps) <= SLOTS
    assert steps[-1] == 3 * SLOTS - 1
    assert steps[0] < 10
    assert plot.validation.data["model"][0] == "all ranks"


def test_throughput_adds_up_to_the_samples() -> None:
    """The area under the lines is the number of samples, whatever the length of steps and slots."""
    plot = ThroughputPlot(3)
    rows = records(3, 0, 4000)
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.001, 2, 4000)
    for rank in range(3):
        mine = rows["rank"] == rank
        rows["compute_seconds"][mine] = lengths
        rows["start_seconds"][mine] = np.concatenate([[0], np.cumsum(lengths.astype("f4"))[:-1]])
    for phase in ("load", "update", "exchange"):
        rows[f"{phase}_seconds"] = 0
    for part in np.array_split(rows, 333):
        plot.update(part)
    shown = drawn(plot)
    width = float(np.diff(shown["0 xs"][0])[0])
    passed = ~np.isnan(shown["0 ys"])
    for rank in range(3):
        end = width * passed[rank].sum()
        mine = rows[rows["rank"] == rank]
        begun = np.clip((end - mine["start_seconds"]) / mine["compute_seconds"], 0, 1) * 32
        np.testing.assert_allclose(np.nansum(shown["0 ys"][rank]) * width, begun.sum(), rtol=1e-3)
    np.testing.assert_allclose(shown["1 y"][:100], shown["0 ys"].sum(0)[:100], rtol=1e-5)


def test_throughput_is_nothing_in_a_pause_and_unknown_before_and_after() -> None:
    plot = ThroughputPlot(2)
    rows = records(2, 0, 200)
    rows["start_seconds"] += np.where(rows["step"] >= 100, 7.0, 1.0)
    plot.update(rows)
    shown = drawn(plot)
    at, line = shown["0 xs"][0], shown["0 ys"][0]
    assert np.isnan(line[at < 0.9]).all()
    np.testing.assert_allclose(line[(at > 1.2) & (at < 5.8)], 32 / SECONDS, rtol=1e-3)
    assert (line[(at > 6.2) & (at < 11.8)] == 0).all()
    np.testing.assert_allclose(line[(at > 12.2) & (at < 16.8)], 32 / SECONDS, rtol=1e-3)
    assert np.isnan(line[at > 17.2]).all()
    np.testing.assert_allclose(shown["1 y"], 2 * line, rtol=1e-3)


def test_the_total_waits_for_a_slow_rank_but_not_for_a_dead_one() -> None:
    plot = ThroughputPlot(2)
    plot.update(records(2, 0, 20))
    alone = records(2, 20, 60)
    alone = alone[alone["rank"] == 0]
    plot.update(alone)

    def known(name: str) -> float:
        """Seconds up to which a line is drawn."""
        shown = drawn(plot)
        values = shown[name][0] if name.endswith("ys") else shown[name]
        return float(shown["0 xs"][0][~np.isnan(values)].max())

    assert known("0 ys") > 3.9
    assert known("1 y") < 1.1
    late = records(2, 80, 100)
    plot.update(late[late["rank"] == 0])
    assert known("1 y") > 8.8


def test_a_step_without_duration_counts_its_samples() -> None:
    plot = ThroughputPlot(1)
    rows = records(1, 0, 10)
    for phase in ("load", "compute", "update", "exchange"):
        rows[f"{phase}_seconds"] = 0
    plot.update(rows)
    shown = drawn(plot)["0 ys"][0]
    width = 9 * SECONDS / (~np.isnan(shown)).sum()
    assert np.nansum(shown) * width == pytest.approx(32 * 10, rel=0.11)


@pytest.mark.parametrize("recent", [None, 1, 7, 100])
def test_bars_are_means_of_the_phases(recent: int | None) -> None:
    plot = PhasesPlot(3, recent=recent)
    rows = np.concatenate([records(3, first, 13) for first in range(0, 130, 13)])
    rows = rows[~((rows["rank"] == 2) & (rows["step"] > 4))]
    for part in np.array_split(rows, 9):
        plot.update(part)
    for rank in range(3):
        mine = rows[rows["rank"] == rank][-(recent or 1000) :]
        for phase in ("load", "compute", "update", "exchange", "hidden"):
            assert plot.source.data[phase][rank] == pytest.approx(1e3 * mine[f"{phase}_seconds"].mean(dtype=float), abs=2e-3)
        assert plot.source.data["steps"][rank] == len(mine)
        assert plot.source.data["total"][rank] == pytest.approx(1e3 * SECONDS, abs=2e-3)
    assert ("all steps" if recent is None else f"last {recent} steps") in plot.root.title.text


def test_beyond_64_ranks_there_is_a_band() -> None:
    plot = LossPlot(65)
    rows = records(65, 0, 20)
    plot.update(rows[: 65 * 10])
    plot.update(rows[65 * 10 :])
    band = plot._lines.band
    assert band is not None
    losses = rows["loss"].reshape(20, 65)
    for name, values in (("low", losses.min(1)), ("high", losses.max(1)), ("mean", losses.mean(1))):
        np.testing.assert_allclose(np.asarray(band.data[name])[:20], values, rtol=1e-5)
    assert len(plot.source.data["ys"]) == 1
    plot.select([3, 64, 64, 99])
    assert plot.source.data["rank"] == [3, 64]
    plot.update(records(65, 20, 1))
    np.testing.assert_allclose(plot.source.data["ys"][1][:20], losses[:, 64], rtol=1e-6)
    assert not np.isnan(plot.source.data["ys"][1][20])


def test_few_ranks_differ_in_colour_or_dash_and_many_run_through_a_scale() -> None:
    for ranks in range(1, 9):
        plot = LossPlot(ranks)
        looks = {(colour, tuple(dash)) for colour, dash in zip(plot.source.data["colour"], plot.source.data["dash"], strict=True)}
        assert len(looks) == ranks
    assert len(set(colours_of(64))) == 64
    assert "from blue to yellow" in LossPlot(9).root.title.text
    assert PLOTS["throughput"](64).root.title.text.endswith("(ranks 0 to 63 from blue to yellow)")


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "drift"])  # of other ranks the mean is another one: it begins anew
@pytest.mark.parametrize(("before", "after"), [(1, 4), (2, 9), (8, 65), (9, 64), (65, 66)])
def test_a_plot_learns_how_many_ranks_there_are(name: str, before: int, after: int) -> None:
    """Ranks that report late end up in the same picture as those that were known from the start."""
    known, learning = PLOTS[name](after), PLOTS[name]()
    listener = Listener(learning)
    rows = records(after, 0, 30)
    early = rows["rank"] < before
    for part in (rows[early], rows[~early]):
        known.update(part)
        learning.update(part)
    assert learning.root.renderers[0].data_source is learning.source
    assert learning.root.title.text == known.root.title.text
    assert [type(tool) for tool in learning.root.tools].count(type(learning.root.tools[-1])) <= 3
    assert len(learning.root.tools) == len(known.root.tools)
    for one, other in zip(learning.root.legend, known.root.legend, strict=True):
        assert [item.label for item in one.items] == [item.label for item in other.items]
    assert drawn(learning).keys() == drawn(known).keys()
    for key, values in drawn(known).items():
        np.testing.assert_allclose(drawn(learning)[key], values, rtol=1e-5, err_msg=key)
    assert listener.message()


def test_bins_keep_their_sums_when_they_join() -> None:
    bins = Bins(2, 1.0, slots=8)
    rng = np.random.default_rng(1)
    total = 0.0
    for position in range(100):
        bins.fit(position)
        value = rng.random()
        bins.add(np.array([1]), np.array([int(position // bins.width)]), np.array([value]))
        total += value
    assert bins.width == 16
    assert bins.sums[1].sum() == pytest.approx(total)
    assert bins.counts[1].tolist() == [16, 16, 16, 16, 16, 16, 4, 0]
    assert not bins.sums[0].any()


def test_every_column_that_is_drawn_is_defined() -> None:
    for phase in PhasesPlot(1).source.data:
        if phase not in ("rank", "total", "steps"):
            assert f"{phase}_seconds" in COLUMNS


def test_rank_lines_without_a_change_send_nothing() -> None:
    plot = LossPlot(2)
    listener = Listener(plot)
    lines: RankLines = plot._lines
    lines.patch(np.zeros((2, SLOTS)), np.full(2, SLOTS), np.zeros(2, int))
    plot.select([1])
    assert not listener.events


def test_staleness_is_the_mean_of_what_was_old() -> None:
    """An oracle in NumPy: 2 steps to a slot, and steps that applied nothing old do not count where others did."""
    rows = records(2, 0, 600)
    rows["staleness"][rows["step"] < 10] = 0
    plot = StalenessPlot(2)
    for part in np.array_split(rows, 17):
        plot.update(part)
    for rank in range(2):
        ages = rows["staleness"][rows["rank"] == rank].reshape(-1, 2).astype(float)
        means = np.nan_to_num(np.where(ages > 0, ages, np.nan).sum(1, where=ages > 0) / np.maximum((ages > 0).sum(1), 1))
        np.testing.assert_allclose(drawn(plot)["0 ys"][rank][:300], means, rtol=1e-6)


def sketched(ways: list[tuple[float, float, int]], seconds: float) -> np.ndarray:
    """Ranks on straight lines: (speed, seconds per step, steps between two sketches); the sketch of rank r is that of speed * time in place r."""
    parts = []
    for rank, (speed, took, every) in enumerate(ways):
        rows = np.zeros(int(seconds / took), STEPS)
        rows["rank"], rows["step"] = rank, np.arange(len(rows))
        rows["start_seconds"], rows["compute_seconds"] = rows["step"] * took, took
        rows["sketch"] = np.where(rows["step"][:, None] % every == 0, 0.0, np.nan)
        rows["sketch"][:, rank] += speed * (rows["start_seconds"] + took)
        parts.append(rows)
    rows = np.concatenate(parts)
    return rows[np.argsort(rows["start_seconds"], kind="stable")]


def test_drift_of_ranks_that_share_no_step_is_drawn_at_the_same_time() -> None:
    """Rank 0 steps four times as often as rank 1: at time t they are at (3t, 0) and (0, 4t), in whole steps, however these are numbered."""
    rows = sketched([(3.0, 0.01, 20), (4.0, 0.04, 20)], 20.0)
    plot = DriftPlot(2, lockstep=False)
    for part in np.array_split(rows, 50):
        plot.update(part)
    shown = drawn(plot)
    times, known = shown["0 xs"][0], ~np.isnan(shown["0 ys"][0])
    assert known.sum() > 90
    there = 0.04 * np.floor(times[known] / 0.04 + 1e-4)  # when rank 1 has done its last step
    np.testing.assert_allclose(shown["0 ys"][:, known], [np.hypot(3 * times[known], 4 * there) / 2] * 2, rtol=1e-4)


def test_a_rank_that_has_died_does_not_fill_the_memory() -> None:
    rows = sketched([(1.0, 0.001, 20), (1.0, 0.001, 20)], 5.0)
    plot = DriftPlot(2, lockstep=False)
    plot.update(rows[rows["step"] < 2])
    for part in np.array_split(rows[rows["rank"] == 0], 20):
        plot.update(part)
        assert len(plot._waiting) <= 2000


def test_what_a_run_does_not_have_takes_no_room_and_sends_nothing() -> None:
    """Ranks in lockstep that agree: neither staleness nor drift."""
    plots = plots_of(2)
    rows = records(2, 0, 100)
    rows["staleness"], rows["sketch"] = 0, np.where(np.isnan(rows["sketch"]), np.nan, 1.0)
    for plot in plots.values():
        plot.update(rows[:100])
    listener = Listener(plots["staleness"], plots["drift"])
    for plot in plots.values():
        plot.update(rows[100:])
    assert [name for name, plot in plots.items() if plot.root.visible] == ["loss", "throughput", "phases"]
    assert listener.message() == ""


@pytest.mark.parametrize("ranks", [3, 64, 100, 1000])
def test_who_talked_to_whom_adds_up(ranks: int) -> None:
    """However many ranks share a field, no byte is lost, and each is in the field of its sender and receiver."""
    rng = np.random.default_rng(ranks)
    rows = np.zeros(5000, TRAFFIC)
    rows["rank"], rows["peer"] = rng.integers(0, ranks, (2, len(rows)))
    rows["bytes"], rows["messages"] = rng.integers(1, 10**6, len(rows)), 1
    rows["rank"][-1], rows["peer"][-1] = ranks - 1, 0
    plot = TrafficPlot()
    for part in np.array_split(rows[np.argsort(rows["rank"], kind="stable")], 40):  # more and more ranks become known
        plot.update(records(1, 0, 0), traffic=part)
    rows = rows[rows["rank"] != rows["peer"]]  # nobody talks to himself
    shown = plot.source.data
    width = shown["wide"][0] / 0.94
    count = int(np.sqrt(len(shown["to"])))
    assert count <= 64
    true = np.zeros((count, count))
    np.add.at(true, ((rows["rank"] // width).astype(int), (rows["peer"] // width).astype(int)), rows["bytes"] / 1e6)
    np.testing.assert_allclose(np.nan_to_num(np.array(shown["megabytes"])).reshape(count, count), true, rtol=1e-9)
    assert np.nansum(shown["messages"]) == len(rows)
    assert plot.root.select_one(ColorBar).color_mapper.high >= true.max()
