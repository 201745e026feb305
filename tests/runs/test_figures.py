from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.runs.fakes import event, steps_of, validations_of, write_run
from workbench.cluster.naming import label_of
from workbench.collectives import Hierarchical
from workbench.drift import DRIFT_ERROR
from workbench.faults import Slow
from workbench.job import Job
from workbench.runs.compare import COMPARED, compare, table_words
from workbench.runs.faults import faults_in
from workbench.runs.figures import FIGURES, Figures, explained, progress, shown, summary, training_seconds
from workbench.runs.frame import drift_frame, waiting_frame
from workbench.runs.report import ranks_frame
from workbench.runs.run import Run
from workbench.runs.strategy import strategy_words
from workbench.store import RunLog, write_json
from workbench.strategies import Gossip, Strategy, SufficientFactors, Synchronous
from workbench.telemetry import SERVER, SKETCH, SPANS, STEPS, TRAFFIC
from workbench.wires import TopK


def test_every_figure_from_the_records(tmp_path: Path) -> None:
    summary = Run.open(write_run(tmp_path / "run", ranks=3, steps=100)).summary()
    assert list(summary) == list(FIGURES)
    exact = {
        "status": "done",
        "strategy": "synchronous (ring, float32)",
        "faults": "",
        "model": "mlp",
        "data": "digits",
        "ranks": 3,
        "steps": 100,
        "epochs": 2,
        "samples": 9600,
        "dropped_samples": 29,
        "servers": 0,
        "updates": None,
        "updates_per_second": None,
        "staleness": {},
        "drift": {},
        "counts": {},
        "layers": {},
        "lost_rows": 0,
        "damage": "none",
        "folder": str(tmp_path / "run"),
    }
    measured = {
        "wall_seconds": 5.0,
        "training_seconds": 5.0,
        "samples_per_second": 1920.0,
        "exchange_share": (0.027 + 0.026 + 0.025) / 0.15,
        "hidden_share": 0.012 / (0.012 + 0.027 + 0.026 + 0.025),
        "bytes_per_step": 1000.0,
        "loss": 0.03,
        "validation_loss": 0.01,
        "accuracy": 0.9,
        "explained_share": 1.0,
    }
    assert {name: summary[name] for name in exact} == exact
    assert {name: summary[name] for name in measured} == pytest.approx(measured, rel=1e-4)
    assert exact.keys() | measured.keys() == FIGURES.keys()


def test_a_summary_shows_units_and_escapes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_json(folder / "job.json", {"model": "<b>x</b>:y"})
    summary = Run.open(folder).summary()
    page = summary._repr_html_()
    assert "90.0 %" in page
    assert "1.0 kB" in page
    assert "<b>" not in page
    assert "&lt;b&gt;x&lt;/b&gt;:y" in page
    assert "samples over training_seconds" in page
    assert "accuracy            90.0 %" in str(summary)
    assert str(Figures()) == ""


def test_what_was_decided_for_each_layer_is_shown_where_there_is_something(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", end=False, job=Job(strategy="sufficient-factors"))
    assert "layers" not in str(Run.open(folder).summary())
    decided = {"fc1.weight": "factors, <3 MB>", "fc2.weight": "whole"}
    log = RunLog(folder, "rank-00000.1")
    log.event(event(0, 0, "exchange", 0, 1.0, notes={"fc1.weight": "factors"}))
    log.event(event(0, 1, "exchange", 5, 2.0, notes=decided))
    log.close()
    run = Run.open(folder)
    summary = run.summary()
    assert summary["layers"] == decided
    assert f"layers{' ' * 14}fc1.weight: factors, <3 MB>\n{' ' * 20}fc2.weight: whole" in str(summary)
    assert "fc1.weight: factors, &lt;3 MB&gt;<br>fc2.weight: whole" in summary._repr_html_()
    page = run.report().read_text(encoding="utf-8")
    assert "<td>fc1.weight</td><td>factors, &lt;3 MB&gt;</td>" in page


def test_the_rate_is_that_of_training(tmp_path: Path) -> None:
    """A pause of 3 s and a validation of 1 s, and ranks that do not step at the same moments: 2 x 32 samples per 50 ms all the same."""
    parts = [steps_of(rank, 100) for rank in range(2)]
    for rank, rows in enumerate(parts):
        rows["start_seconds"] += 0.01 * rank
        rows["start_seconds"][40:] += 3
        rows["start_seconds"][50:] += 1
    rows = np.concatenate(parts)
    assert training_seconds(rows) == pytest.approx(5 + 3 * 0.01, rel=1e-5)  # in each of three stretches one rank is 10 ms ahead
    assert training_seconds(rows[::-1]) == pytest.approx(training_seconds(rows))
    assert training_seconds(rows[:0]) == 0
    told = summary("done", {}, [], rows, validations_of(), 0, "")
    assert told["wall_seconds"] == pytest.approx(9.01, rel=1e-5)
    assert told["samples_per_second"] == pytest.approx(6400 / 5.03, rel=1e-5)
    over = progress("done", {}, [], rows, validations_of(), over=True)
    assert {name: over[name] for name in ("samples_per_second", "exchange_share")} == {
        name: told[name] for name in ("samples_per_second", "exchange_share")
    }
    shortly_after = rows[rows["step"] < 42]
    assert progress("running", {}, [], shortly_after, validations_of())["samples_per_second"] == pytest.approx(2 * 32 / 0.05, rel=1e-4)


def test_a_run_that_is_over_tells_the_same_twice(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run", ranks=2, steps=100))
    one, summed = run.progress(), run.summary()
    assert one["samples_per_second"] == summed["samples_per_second"]
    one["step"] = 0
    assert run.progress()["step"] == 100


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("accuracy", 0.98765, "98.8 %"),
        ("accuracy", None, "not known"),
        ("loss", float("nan"), "not known"),
        ("loss", 1e-7, "1e-07"),
        ("bytes_per_step", 999, "999 B"),
        ("bytes_per_step", 1_234_567.0, "1.2 MB"),
        ("bytes_per_step", 5e13, "50000.0 GB"),
        ("wall_seconds", 12.3456, "12.35 s"),
        ("samples_per_second", 12345.6, "12,346 samples/s"),
        ("samples", 1234567, "1,234,567"),
        ("status", "done", "done"),
    ],
)
def test_numbers_as_a_person_reads_them(name: str, value: object, words: str) -> None:
    assert shown(name, value) == words


def test_phases_that_do_not_add_up_are_seen() -> None:
    rows = steps_of(0, 10, per_epoch=100)
    assert explained(rows) == pytest.approx(1, rel=1e-5)
    rows["compute_seconds"] -= 0.010
    assert explained(rows) == pytest.approx(0.8, rel=1e-5)
    assert explained(rows[:1]) is None
    # what lies between two epochs, or in a pause, belongs to no step
    rows = steps_of(0, 20, per_epoch=10)
    rows["start_seconds"][10:] += 3
    rows["start_seconds"][15:] += 60
    assert explained(rows, [event(0, 1, "pause", 15, 3.0)]) == pytest.approx(1, rel=1e-5)
    assert explained(rows, [event(1, 1, "pause", 15, 3.0)]) == pytest.approx(18 * 0.05 / 60.9, rel=1e-4)


def test_strategies_in_words() -> None:
    assert strategy_words({}) == "not known"
    assert strategy_words({"kind": "gossip", "mode": "pull", "every": 2}) == "gossip (every=2)"
    told = {"kind": "synchronous", "collective": {"kind": "ring"}, "overlap": True, "x": None, "y": 3}
    assert strategy_words(told) == "synchronous (ring, overlap, y=3)"
    assert strategy_words({"kind": "someone's", "wire": {"kind": "top-k", "density": 0.5}}) == "someone's (top-k(density=0.5))"


@pytest.mark.parametrize(
    ("strategy", "words", "label"),
    [
        (Synchronous(), "synchronous (ring, float32)", "synchronous ring"),
        (Synchronous(wire=TopK()), "synchronous (ring, top-k)", "synchronous ring top-k"),
        (Synchronous(wire=TopK(density=0.001)), "synchronous (ring, top-k(density=0.001))", "synchronous ring top-k"),
        (Synchronous(wire=TopK(correction=False)), "synchronous (ring, top-k(correction=False))", "synchronous ring top-k"),
        (
            Synchronous(Hierarchical(group=2), overlap=True),
            "synchronous (hierarchical(group=2), float32, overlap)",
            "synchronous hierarchical overlap",
        ),
        (Synchronous(average="parameters", every=4), "synchronous (ring, float32, parameters, every=4)", "synchronous ring"),
        (SufficientFactors(choice="always"), "sufficient-factors (ring, always)", "sufficient-factors ring"),
        (Gossip(), "gossip", "gossip"),
    ],
    ids=str,
)
def test_what_tells_two_strategies_apart_is_said(strategy: Strategy, words: str, label: str) -> None:
    job = Job(strategy=strategy)
    assert strategy_words(job.to_json()["strategy"]) == words
    assert label_of(job) == label


def spans(*rows: tuple[int, int, str, int, int, float, float]) -> np.ndarray:
    return np.array(list(rows), SPANS)


def test_waiting_is_told_apart_from_moving() -> None:
    """Rank 1 comes 0.3 s late to the first exchange: the others wait for it. In the second all are there."""
    frame = waiting_frame(
        spans(
            (0, 4, "compute", 4, -1, 0.0, 1.0),
            (0, 4, "exchange", 4, -1, 1.0, 1.5),
            (1, 4, "exchange", 4, -1, 1.3, 1.5),
            (2, 4, "exchange", 4, -1, 1.1, 1.25),
            (0, 5, "exchange", 5, -1, 2.0, 2.4),
            (1, 5, "exchange", 5, -1, 2.0, 2.4),
            (2, 5, "exchange", 5, -1, 2.0, 2.4),
            (0, 6, "exchange", 6, -1, 3.0, 3.4),
            (1, 6, "exchange", 6, -1, 3.0, 3.4),
        )
    )
    assert frame["exchange"].tolist() == [4, 4, 4, 5, 5, 5]  # of the last one a rank's record is missing
    np.testing.assert_allclose(frame["waiting_seconds"], [0.3, 0, 0.15, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(frame["moving_seconds"], [0.2, 0.2, 0, 0.4, 0.4, 0.4], atol=1e-12)
    np.testing.assert_allclose(frame["seconds"], frame["waiting_seconds"] + frame["moving_seconds"])


def test_an_exchange_of_two_waits_for_the_other_alone() -> None:
    frame = waiting_frame(
        spans(
            (0, 1, "exchange", 1, 1, 1.0, 2.0),
            (1, 1, "exchange", 1, 0, 1.2, 2.0),
            (2, 1, "exchange", 1, 3, 1.9, 2.5),
            (3, 1, "exchange", 1, 2, 1.8, 2.5),
        )
    )
    np.testing.assert_allclose(frame["waiting_seconds"], [0.2, 0, 0, 0.1], atol=1e-12)


def test_stretches_of_one_exchange_are_matched_in_their_order() -> None:
    frame = waiting_frame(
        spans(
            (0, 1, "exchange", 1, -1, 1.0, 1.1),
            (0, 1, "exchange", 1, -1, 2.0, 2.5),
            (1, 1, "exchange", 1, -1, 1.0, 1.1),
            (1, 1, "exchange", 1, -1, 2.2, 2.5),
        )
    )
    assert frame[["stretch", "rank"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(frame["waiting_seconds"], [0, 0, 0.2, 0], atol=1e-12)


def sketches(parameters: np.ndarray, seed: int) -> np.ndarray:
    """An independent count-sketch of vectors (ranks, n): random signs, summed modulo `SKETCH`."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], parameters.shape[1])
    return np.stack([np.bincount(np.arange(parameters.shape[1]) % SKETCH, row * signs, SKETCH) for row in parameters])


def test_drift_is_the_distance_from_the_mean_within_its_error() -> None:
    """Over many seeds the estimate is right on average and scatters by about the error that it names."""
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(4, 5000)) * np.array([[1.0], [1.0], [2.0], [3.0]])
    true = np.linalg.norm(parameters - parameters.mean(0), axis=1)
    ratios = []
    for seed in range(200):
        rows = np.concatenate([steps_of(rank, 3) for rank in range(4)])
        rows["sketch"][rows["step"] == 2] = sketches(parameters, seed)
        frame = drift_frame(rows)
        assert frame["step"].tolist() == [2] * 4
        assert frame["rank"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(frame["error"], frame["drift"] * DRIFT_ERROR)
        ratios.append(frame["drift"] / true)
    ratios = np.array(ratios)
    assert abs(ratios.mean() - 1) < 0.02
    assert ratios.std() == pytest.approx(DRIFT_ERROR, rel=0.15)


def test_drift_needs_all_workers() -> None:
    rows = np.concatenate([steps_of(rank, 3) for rank in range(2)])
    rows["sketch"][(rows["step"] == 1) & (rows["rank"] == 0)] = 1
    assert len(drift_frame(rows)) == 0
    rows["sketch"][rows["step"] == 1] = 1
    assert drift_frame(rows)["drift"].tolist() == [0, 0]
    assert len(drift_frame(rows[:0])) == 0
    assert rows.dtype == STEPS


def test_runs_side_by_side(tmp_path: Path) -> None:
    one = Run.open(write_run(tmp_path / "one", ranks=2))
    write_run(tmp_path / "two", ranks=4, status="stopped")
    frame = compare([one, tmp_path / "two", str(tmp_path / "one")])
    assert frame.index.tolist() == ["one", "two", "one"]
    assert list(frame.columns) == [name for name in COMPARED if name not in ("faults", "servers", "updates")], "there are none"
    assert frame["ranks"].tolist() == [2, 4, 2]
    assert frame["status"].tolist() == ["done", "stopped", "done"]
    assert pd.api.types.is_float_dtype(frame["accuracy"])
    words = table_words(frame)
    assert words[0][:5] == ["run", "strategy", "ranks", "steps", "accuracy"]
    assert words[2][0] == "two"
    assert "90.0 %" in words[2]
    with pytest.raises(ValueError, match="not the folder of a run"):
        compare([tmp_path])


def test_what_goes_wrong_and_the_servers_of_a_run_are_beside_those_without(tmp_path: Path) -> None:
    slow = Job(faults=(Slow(rank=1, factor=4), Slow(rank=2, factor=2, seconds=0.5)))
    write_run(tmp_path / "slow", job=slow)
    write_run(tmp_path / "plain")
    write_run(tmp_path / "server", job=Job(strategy="parameter-server"))
    rows = np.zeros(1200, SERVER)
    rows["rank"], rows["update"] = 3, np.arange(1200)
    log = RunLog(tmp_path / "server", "rank-00003.0")
    log.append("server", 0, rows)
    log.close()

    words = "rank 1 slowed 4x, rank 2 slowed 2x and by 0.5 s a step"
    assert f"faults              {words}\n" in str(Run.open(tmp_path / "slow").summary())
    assert "faults" not in str(Run.open(tmp_path / "plain").summary())
    frame = compare([tmp_path / "slow", tmp_path / "plain"])
    assert frame["faults"].tolist() == [words, ""]
    assert not {"servers", "updates"} & {*frame.columns}

    frame = compare([tmp_path / "slow", tmp_path / "server"])
    assert list(frame.columns) == list(COMPARED)
    assert frame["servers"].tolist() == [0, 1]
    head, *cells = table_words(frame)
    assert [row[head.index("updates")] for row in cells] == ["", "1,200"]


def test_faults_that_this_version_does_not_know_are_their_kind(tmp_path: Path) -> None:
    assert faults_in({"faults": [{"kind": "deaf", "rank": 2}, {"kind": "slow", "rank": 1, "factor": 0.5}, 7, {}]}) == "deaf, slow, not known"
    assert faults_in({"faults": 3}) == faults_in({}) == ""


def test_what_a_worker_sends_after_its_last_step_counts() -> None:
    """Two workers and a server; 300 bytes to another and 8 to oneself follow the last step of rank 1."""
    steps = np.concatenate([steps_of(rank, 4) for rank in range(2)])  # 1000 bytes a step
    traffic = np.array([(0, 3, 1, 3000, 3), (0, 3, 2, 1000, 1), (1, 3, 0, 4000, 4), (1, 4, 2, 300, 3), (1, 4, 1, 8, 1), (2, 3, 0, 9999, 9)], TRAFFIC)
    assert summary("done", {}, [], steps, validations_of(), 0, "", traffic=traffic)["bytes_per_step"] == (4000 + 4300) / 8
    sampled = traffic[traffic["rank"] == 0][:1]  # while it goes on, it is behind
    assert summary("running", {}, [], steps, validations_of(), 0, "", traffic=sampled)["bytes_per_step"] == 1000
    assert ranks_frame(steps, traffic)["bytes sent per step"].tolist() == [1000, 1075]
