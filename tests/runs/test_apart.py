"""Ranks that do not wait for each other: how far apart, how stale, who talked to whom, who serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.runs.fakes import event, start_event, steps_of, validations_of, write_run
from workbench.cluster.virtual import VirtualCluster
from workbench.job import Job
from workbench.runs.ending import ending_of
from workbench.runs.figures import Figures, summary
from workbench.runs.frame import MOMENTS, drift_frame, server_frame, traffic_frame
from workbench.runs.replay import replay
from workbench.runs.run import Run
from workbench.store import Rows, RunLog
from workbench.strategies import Gossip, ParameterServer
from workbench.telemetry import SERVER, SKETCH, TRAFFIC

SAMPLED = 20


def walked(rank: int, seconds_per_step: float, sketches: np.ndarray) -> Rows:
    """Steps of a rank that take so long, of which every 20th has the sketch of its place in `sketches` (steps, SKETCH)."""
    rows = steps_of(rank, len(sketches))
    for phase in ("load", "update", "exchange"):
        rows[f"{phase}_seconds"] = 0
    rows["start_seconds"], rows["compute_seconds"] = np.arange(len(rows)) * seconds_per_step, seconds_per_step
    rows["sketch"][::SAMPLED] = sketches[::SAMPLED]
    return rows


def folded(parameters: np.ndarray, seed: int) -> np.ndarray:
    """An independent count-sketch of vectors (steps, n): random signs, summed modulo `SKETCH`; n is a multiple of it."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], parameters.shape[1])
    return (parameters * signs).reshape(len(parameters), -1, SKETCH).sum(1)


def test_ranks_that_share_no_step_are_compared_at_the_same_time() -> None:
    """On straight lines, at 10 and at 35.1 ms per step: after equally many steps one is 3.5 times as far, and drift would be wrong."""
    speed = np.array([[3.0, 0.0], [0.0, 4.0]])
    per_step = (0.010, 0.0351)
    rows = []
    for rank, took in enumerate(per_step):
        place = np.zeros((round(14 / took), SKETCH))
        place[:, :2] = np.outer((np.arange(len(place)) + 1) * took, speed[rank])
        rows.append(walked(rank, took, place))
    frame = drift_frame(np.concatenate(rows), lockstep=False)
    done = [np.floor(frame["seconds"] / took + 1e-4) * took for took in per_step]  # parameters stand still within a step
    np.testing.assert_allclose(frame["drift"], np.hypot(3 * done[0], 4 * done[1]) / 2, rtol=1e-5)
    of_rank = np.array(per_step)[frame["rank"]]
    np.testing.assert_allclose((frame["step"] + 1) * of_rank, np.where(frame["rank"] == 0, *done), rtol=1e-5)
    both = frame.groupby("seconds")["rank"].apply(list)
    assert all(ranks == [0, 1] for ranks in both)
    assert len(both) > 70, "whenever one of the two was sketched"
    assert frame["seconds"].min() == pytest.approx(0.0351)
    assert (frame["error"] > 0.12 * frame["drift"]).all()
    wrong = drift_frame(np.concatenate(rows))
    assert not np.allclose(wrong["drift"], np.hypot(3 * wrong["seconds"], 4 * wrong["seconds"]) / 2, rtol=0.3)


def test_the_error_of_drift_covers_it_for_walks_that_are_not_straight() -> None:
    """Workers that share a way and scatter about it, at three speeds: the truth is within one error in at least 68 %, within two in 95 %."""
    off: list[np.ndarray] = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        pull, parts, ways = rng.normal(size=10 * SKETCH), [], []
        for rank, took in enumerate((0.01, 0.013, 0.04)):
            count = round(5 / took)
            way = np.cumsum(rng.normal(size=(count, len(pull))) * np.sqrt(took) + pull * took, axis=0)
            ways.append((took, way))
            parts.append(walked(rank, took, folded(way, seed)))
        frame = drift_frame(np.concatenate(parts), lockstep=False)
        times = frame["seconds"].to_numpy()[::3]
        places = np.stack([way[np.floor(times / took + 1e-3).astype(int) - 1] for took, way in ways])
        true = np.linalg.norm(places - places.mean(0), axis=2).T.ravel()
        off.append(((frame["drift"] - true) / frame["error"]).to_numpy())
    scattered = np.abs(np.concatenate(off))
    assert np.mean(scattered <= 1) >= 0.68
    assert np.mean(scattered <= 2) >= 0.95
    assert np.mean(scattered <= 0.25) < 0.5, "and it is not larger than that by much"


def test_the_error_of_drift_in_lockstep_is_that_of_the_sketch() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for seed in range(150):
        places = rng.normal(size=(4, 40 * SKETCH)) * [[1.0], [1.0], [2.0], [3.0]]
        rows = np.concatenate([walked(rank, 0.01, folded(place[None], seed)) for rank, place in enumerate(places)])
        frame = drift_frame(rows)
        true = np.linalg.norm(places - places.mean(0), axis=1)
        inside.append(np.abs(frame["drift"] - true) / frame["error"])
    assert np.mean(np.array(inside) <= 1) == pytest.approx(0.68, abs=0.06)
    assert np.mean(np.array(inside) <= 2) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_long_run_is_told_in_so_many_moments(lockstep: bool) -> None:
    rows = np.concatenate([walked(rank, 0.01 + 0.003 * rank * (not lockstep), np.full((60_000, SKETCH), rank)) for rank in range(2)])
    frame = drift_frame(rows, lockstep)
    assert len(frame) == 2 * MOMENTS
    assert frame["seconds"].max() == pytest.approx(59_981 * 0.01)
    np.testing.assert_allclose(frame["drift"], np.sqrt(SKETCH) / 2)


def test_who_talked_to_whom_is_summed_over_the_run() -> None:
    rows = np.array([(0, 20, 1, 100, 1), (1, 20, 0, 7, 1), (0, 40, 1, 11, 2), (0, 40, 2, 5, 1), (2, 40, 2, 8, 1)], TRAFFIC)
    told = traffic_frame(rows)
    assert list(told.columns) == ["rank", "peer", "bytes", "messages"]
    assert told.to_numpy().tolist() == [[0, 1, 111, 3], [0, 2, 5, 1], [1, 0, 7, 1]]
    assert len(traffic_frame(rows[:0])) == 0


def served(counts: dict[int, int], servers: tuple[int, ...], every: float = 0.01) -> Rows:
    """Updates of servers that apply what workers bring by turns: `counts` of each; the staleness is the number of the update modulo 7."""
    workers = [worker for number in range(max(counts.values())) for worker in counts if number < counts[worker]]
    clocks = [workers[: place + 1].count(worker) for place, worker in enumerate(workers)]
    rows = [
        (server, place, worker, clock, place % 7, 1 + place * every, 0.001)
        for place, (worker, clock) in enumerate(zip(workers, clocks, strict=True))
        for server in servers
    ]
    return np.array(rows, SERVER)


def test_the_figures_of_a_run_with_servers() -> None:
    steps = np.concatenate([steps_of(rank, 100) for rank in range(2)])
    rows = served({0: 100, 1: 90}, servers=(2, 3))
    starts = [{**start_event(rank, 2), "role": "worker" if rank < 2 else "server", "ranks": 4} for rank in range(4)]
    ends = [event(rank, 1, "end", 100, 6.0, counts={"pushes skipped": rank + 1, "late": 1}) for rank in range(2)] + [event(2, 1, "end", 0, 6.0)]
    told = summary("done", Job(strategy=ParameterServer(servers=2)).to_json(), starts + ends, steps, validations_of(), 0, "", rows)
    assert told["ranks"] == 2
    assert told["servers"] == 2
    assert told["updates"] == 190, "each server has its part of every one"
    assert told["updates_per_second"] == pytest.approx(190 / 5, rel=1e-4)
    assert told["staleness"] == pytest.approx({"median": 3, "95 %": np.quantile(np.arange(190) % 7, 0.95), "max": 6})
    assert told["counts"] == {"pushes skipped": 3, "late": 2}
    assert told["samples_per_second"] == pytest.approx(2 * 32 * 100 / 5, rel=1e-4)
    words = str(told)
    for line in ("servers             2", "updates             190", "updates per second  38 updates/s", "median: 3", "pushes skipped: 3"):
        assert line in words
    assert server_frame(rows[::-1])["seconds"].is_monotonic_increasing


def test_staleness_without_servers_is_that_of_what_was_not_fresh() -> None:
    steps = np.concatenate([steps_of(rank, 50) for rank in range(2)])
    rng = np.random.default_rng(0)
    steps["staleness"] = np.where(rng.random(100) < 0.3, rng.integers(1, 9, 100), 0)
    stale = steps["staleness"][steps["staleness"] > 0]
    told = summary("done", {}, [], steps, validations_of(), 0, "")
    assert told["staleness"] == {"median": np.median(stale), "95 %": pytest.approx(np.quantile(stale, 0.95)), "max": stale.max()}
    assert "servers" not in str(told)
    assert ">updates<" not in told._repr_html_()


def test_the_curve_of_the_drift_in_words() -> None:
    """Two workers that part by 0.2 per step, (0, x) and (0, -x): each is 0.1 per step from their mean."""
    ways = [np.outer(np.arange(1, 301), np.eye(SKETCH)[0] * 0.1 * sign) for sign in (1, -1)]
    rows = np.concatenate([walked(rank, 0.01, way) for rank, way in enumerate(ways)])
    told = summary("done", {}, [], rows, validations_of(), 0, "")["drift"]
    assert len(told) == 8
    assert next(iter(told.items())) == ("after 1 step", "0.1 ± 0.013")
    assert list(told.items())[-1] == ("after 281 steps", "28.1 ± 3.5")
    by_time = summary("done", Job(strategy="gossip").to_json(), [], rows, validations_of(), 0, "")["drift"]
    assert list(by_time.items())[-1] == ("at 2.81 s", "28.1 ± 3.5")
    assert "drift" not in str(Figures(drift={}, steps=1))


def with_server(folder: Path, status: str | None = None) -> Path:
    """A run of two workers and a server, which has recorded no step but 30 updates."""
    write_run(folder, ranks=2, steps=50, status=status, job=Job(strategy=ParameterServer()))
    log = RunLog(folder, "rank-00002.0")
    log.event({**start_event(2, 2, 50), "role": "server", "ranks": 3})
    log.append("server", 0, served({0: 15, 1: 15}, servers=(2,)))
    log.event(event(2, 1, "end", 50, 3.5, status="done"))
    log.close()
    return folder


def test_a_run_with_a_server_has_ended_when_the_server_has_too(tmp_path: Path) -> None:
    folder = with_server(tmp_path / "run")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert (ending_of(folder, events, 0.0) or {})["status"] == "done"
    missing = [told for told in events if not (told["rank"] == 2 and told["kind"] == "end")]
    ended = ending_of(folder, missing, 0.0)
    assert ended is None or ended["status"] == "failed"


def test_a_server_that_records_no_steps_has_lost_none_and_is_told_again(tmp_path: Path) -> None:
    folder = with_server(tmp_path / "run", status="done")
    run = Run.open(folder)
    told = run.summary()
    assert told["lost_rows"] == 0
    assert told["ranks"] == 2
    assert told["servers"] == 1
    assert len(run.server()) == 30
    page = run.report().read_text(encoding="utf-8")
    ages = np.arange(30) % 7
    assert "<h2>Servers</h2>" in page
    assert f'<td class="number">2</td><td class="number">30</td><td class="number">30</td><td class="number">{ages.mean():.6g}</td>' in page
    tape = replay(folder, pace=1e4).start()
    assert tape.wait(10)
    assert {rank: beacon["step"] for rank, beacon in tape.beacons().items()} == {0: 50, 1: 50, 2: 30}


def test_the_records_of_gossip_and_of_a_parameter_server_say_who_how_stale_and_how_far(tmp_path: Path) -> None:
    with VirtualCluster(ranks=3, folder=tmp_path) as cluster:
        gossip = cluster.train(Job(strategy=Gossip(), steps=61)).wait(60)
        served = cluster.train(Job(strategy=ParameterServer(), steps=61)).wait(60)
    told, traffic = gossip.summary(), gossip.traffic()
    assert told["staleness"]["max"] >= 1
    assert 1 <= len(told["drift"]) <= 8
    assert all(word.startswith("at ") for word in told["drift"])
    assert told["updates"] is None
    steps = gossip.table("steps")
    by_steps = {rank: int(steps["bytes_sent"][steps["rank"] == rank].sum()) for rank in range(3)}
    by_peers = traffic.groupby("rank")["bytes"].sum().to_dict()
    assert all(by_peers[rank] >= 0.9 * by_steps[rank] for rank in range(3)), "but for the answers and the end after the last step"
    assert (traffic["rank"] != traffic["peer"]).all()
    page = gossip.report().read_text(encoding="utf-8")
    assert all(f'"name":"{plot}"' in page for plot in ("staleness", "drift", "traffic"))

    told, rows = served.summary(), served.server()
    assert told["ranks"] == 2
    assert told["servers"] == 1
    assert told["updates"] == len(rows) == 2 * 61
    assert told["staleness"]["max"] == rows["staleness"].max()
    assert told["lost_rows"] == 0
    assert rows.groupby("peer")["clock"].max().to_dict() == {0: 61, 1: 61}
    pairs = set(zip(served.traffic()["rank"], served.traffic()["peer"], strict=True))
    assert {(0, 2), (1, 2), (2, 0), (2, 1)} <= pairs
    assert not {(0, 1), (1, 0)} & pairs, "workers talk to the server alone"
