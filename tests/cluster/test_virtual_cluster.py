"""The virtual cluster behind a notebook: its child process, its runs, its commands, its ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from workbench import Device, Job, Network, VirtualCluster
from workbench.errors import ClusterBusy, ClusterGone, RankFailed, WorkbenchError
from workbench.store import read_events, read_json, read_table
from workbench.strategies import Elastic, Gossip, Groups, ParameterServer, Strategy, Synchronous

DEVICE = Device(seconds_per_sample=1e-4, seconds_per_update=1e-3)
LONG = Job(steps=1_000_000, batch_size=4)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualCluster]:
    with VirtualCluster(4, device=DEVICE, folder=tmp_path_factory.mktemp("runs")) as cluster:
        yield cluster


@pytest.fixture
def cluster(four: VirtualCluster) -> VirtualCluster:
    """No run is on, whatever the test before has done."""
    if four.run is not None and four.run.status not in ("done", "stopped", "failed"):
        four.run.abort()
        with contextlib.suppress(WorkbenchError):
            four.run.wait(30)
    return four.start()


def until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def steps_of(run: Any) -> int:
    return len(run.rows("steps"))


# -- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Synchronous(), Gossip()], ids=["synchronous", "gossip"])
def test_the_same_job_gives_the_same_records(tmp_path: Path, strategy: Any) -> None:
    device = Device(seconds_per_sample=1e-4, seconds_per_update=1e-3, jitter=0.2)
    job = Job(steps=12, batch_size=8, strategy=strategy)
    with VirtualCluster(16, device=device, folder=tmp_path) as cluster:
        folders = [cluster.train(job).wait(60).folder for _ in range(2)]
        changed = cluster.train(job.replace(seed=1)).wait(60).folder
    for table in ("steps", "spans", "traffic", "validation"):
        first, second, other = (read_table(folder, table) for folder in (*folders, changed))
        assert len(first) > 0
        assert first.tobytes() == second.tobytes()
        assert first.tobytes() != other.tobytes()
    steps = read_table(folders[0], "steps")
    assert len(steps) == 16 * 12
    assert len(np.unique(steps["compute_seconds"])) > 100  # jitter differs from step to step and rank to rank


def test_time_is_what_device_and_network_say(tmp_path: Path) -> None:
    network = Network(latency=1e-3, bandwidth=1e6)
    with VirtualCluster(8, network, DEVICE, folder=tmp_path) as cluster:
        run = cluster.train(Job(steps=5, batch_size=8)).wait(60)
    steps = read_table(run.folder, "steps")
    assert steps["compute_seconds"] == pytest.approx(8e-4, rel=1e-5)
    assert steps["update_seconds"] == pytest.approx(1e-3, rel=1e-5)
    ring = Synchronous().seconds(4 * 4810, 8, network)
    assert np.median(steps["exchange_seconds"]) == pytest.approx(ring, rel=0.02)
    assert run.frame().groupby("rank").size().tolist() == [5] * 8
    facts = read_json(run.folder / "cluster.json")
    assert facts["launcher"] == "virtual"
    assert facts["network"] == {"latency": 1e-3, "bandwidth": 1e6}
    assert facts["device"] == {"seconds_per_sample": 1e-4, "seconds_per_update": 1e-3, "measured": [], "jitter": 0.0}


def test_what_the_device_does_not_say_is_measured_once(tmp_path: Path) -> None:
    with VirtualCluster(2, folder=tmp_path) as cluster:
        runs = [cluster.train(Job(steps=3, strategy=strategy)).wait(60) for strategy in (Synchronous(), Gossip())]
    one, two = (read_json(run.folder / "cluster.json")["device"] for run in runs)
    assert one == two
    assert one["measured"] == ["seconds_per_sample", "seconds_per_update"]
    assert 0 < one["seconds_per_sample"] < 1
    compute = read_table(runs[0].folder, "steps")["compute_seconds"]
    assert compute == pytest.approx(32 * one["seconds_per_sample"], rel=1e-5)


SLOW_NET = """
import time
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        time.sleep({})
        return super().forward(x)

def slow(input_shape, classes):
    return Net(nn.Flatten(), nn.Linear(64, classes))
"""


def test_an_edited_model_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    costs = []
    with VirtualCluster(2, folder=tmp_path / "runs") as cluster:
        for seconds in (0.0, 0.02):
            (tmp_path / "slow_net.py").write_text(SLOW_NET.format(seconds))
            run = cluster.train(Job(model="slow_net:slow", steps=2, batch_size=4)).wait(60)
            costs.append(4 * read_json(run.folder / "cluster.json")["device"]["seconds_per_sample"])
    assert costs[0] < 0.02 < costs[1]


def test_all_is_handed_on_and_on_the_disk(cluster: VirtualCluster) -> None:
    run = cluster.train(Job(epochs=2, batch_size=16)).wait(60)
    assert run.status == "done"
    on_disk = read_table(run.folder, "steps")
    assert np.array_equal(run.table("steps")["loss"], on_disk["loss"])
    assert len(run.events()) == len(read_events(run.folder))
    assert run.validation()["rank"].iloc[-1] == -1
    assert run.validation()["accuracy"].iloc[-1] > 0.8
    assert sum(p.numel() for p in run.model().parameters()) == 4810
    assert run.summary()["status"] == "done"
    assert cluster.run is run


def test_a_thousand_times_more_ranks_than_cores(tmp_path: Path) -> None:
    with VirtualCluster(200, device=DEVICE, folder=tmp_path) as cluster:
        run = cluster.train(Job(steps=2, batch_size=4, strategy=Synchronous(collective="halving-doubling"))).wait(120)
        assert len(cluster.status().rows) == 200
    assert steps_of(run) == 400
    assert len(np.unique(run.rows("steps")["loss"])) > 100


def test_dropout_is_each_rank_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets.py").write_text(
        textwrap.dedent("""
            from torch import nn

            def dropping(input_shape, classes):
                print("building")
                return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))
        """)
    )
    monkeypatch.chdir(tmp_path)
    job = Job(model="nets:dropping", steps=6, batch_size=8, strategy=Gossip(every=100))
    losses = []
    for device in (DEVICE, Device(seconds_per_sample=1e-4, seconds_per_update=1e-3, jitter=0.9)):
        with VirtualCluster(3, device=device, folder=tmp_path / "runs") as cluster:
            steps = cluster.train(job).wait(60).rows("steps")
            losses.append([steps[steps["rank"] == rank]["loss"].tolist() for rank in range(3)])
    # without an exchange a rank's losses do not depend on who runs when
    assert losses[0] == losses[1]
    assert (next((tmp_path / "runs").iterdir()) / "world.out").read_text().splitlines() == ["building"] * 3


@pytest.mark.cluster
def test_real_and_virtual_ranks_train_the_same_model(cluster4: Any, cluster: VirtualCluster) -> None:
    import torch

    job = Job(epochs=1, batch_size=16, seed=3)
    real, simulated = cluster4.train(job).wait(120), cluster.train(job).wait(60)
    for one, other in zip(real.model().parameters(), simulated.model().parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert set(real.frame().columns) == set(simulated.frame().columns)


@pytest.mark.parametrize(
    ("strategy", "there"), [(ParameterServer(), 0), (ParameterServer(update="worker"), 1), (Groups(), 0), (Elastic(), 1)], ids=str
)
def test_an_update_is_charged_where_the_optimizer_runs(cluster: VirtualCluster, strategy: Strategy, there: int) -> None:
    """And a server for each of its own."""
    run = cluster.train(Job(steps=4, batch_size=4, strategy=strategy)).wait(60)
    np.testing.assert_allclose(run.rows("steps")["update_seconds"], 1e-3 * there, atol=1e-9)
    assert run.rows("server")["busy_seconds"].sum() >= 1e-3


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Groups(outer="async"), Elastic()], ids=["groups", "elastic"])
def test_a_pause_reaches_workers_that_share_no_step(cluster: VirtualCluster, strategy: Strategy) -> None:
    """Also those behind a worker that is held already: its clock goes on, so that they come to their pause."""
    run = cluster.train(LONG.replace(strategy=strategy, slow={0: 3.0}))
    until(lambda: steps_of(run) > 40)
    run.pause()
    until(lambda: set(run.events().query("kind == 'pause'")["rank"]) == {0, 1, 2})
    run.resume()
    run.stop()
    assert run.wait(30).status == "stopped"


def test_pause_step_change_resume_stop(cluster: VirtualCluster) -> None:
    run = cluster.train(LONG)
    assert run.status in ("starting", "running")
    until(lambda: steps_of(run) > 40)
    run.pause()
    until(lambda: run.status == "paused")
    until(lambda: len(run.events().query("kind == 'pause'")) == 4)
    at = set(run.events().query("kind == 'pause'")["step"])
    assert len(at) == 1
    time.sleep(0.2)
    assert set(run.frame().groupby("rank")["step"].max()) == {next(iter(at)) - 1}
    run.step(3)
    until(lambda: set(run.frame().groupby("rank")["step"].max()) == {next(iter(at)) + 2})
    run.change(learning_rate=0.01)
    run.resume()
    until(lambda: (run.rows("steps")["learning_rate"] < 0.05).any())
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    changed = run.frame().query("learning_rate < 0.05").groupby("rank")["step"].min()
    assert set(changed) == {next(iter(at)) + 3}
    assert run.model() is not None


def test_an_abort_ends_a_model_that_sleeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleepy_virtual.py").write_text("import time\ndef net(input_shape, classes): time.sleep(1000)")
    monkeypatch.chdir(tmp_path)
    with VirtualCluster(2, device=DEVICE, folder=tmp_path) as cluster:
        run = cluster.train(Job(model="sleepy_virtual:net", steps=3))
        time.sleep(1)
        run.abort()
        run.wait(15)
        assert run.status == "stopped"
        assert cluster.train(Job(steps=1)).wait(30).status == "done"


@pytest.mark.parametrize("pace", ["fast", "real"])
def test_an_abort_ends_it_at_once(tmp_path: Path, pace: str) -> None:
    device = Device(seconds_per_sample=1.0, seconds_per_update=0.0) if pace == "real" else DEVICE
    with VirtualCluster(3, device=device, pace=pace, folder=tmp_path) as cluster:
        run = cluster.train(LONG)
        until(lambda: run.status == "running")
        run.abort()
        began = time.monotonic()
        run.wait(30)
        assert time.monotonic() - began < 5
        assert run.status == "stopped"
        assert cluster.train(Job(steps=1)) is not run  # the cluster goes on


def test_real_pace_takes_the_time_it_would_take(tmp_path: Path) -> None:
    with VirtualCluster(2, device=Device(seconds_per_sample=0.01, seconds_per_update=0.0), pace="real", folder=tmp_path) as cluster:
        cluster.train(Job(steps=1, batch_size=1)).wait(60)  # torch is loaded now
        began = time.monotonic()
        run = cluster.train(Job(steps=20, batch_size=5)).wait(60)
        took = time.monotonic() - began
    assert 0.98 <= took < 5
    assert read_table(run.folder, "steps")["start_seconds"].max() == pytest.approx(0.95, abs=0.05)


def test_beacons_and_status_answer_while_it_computes(cluster: VirtualCluster) -> None:
    run = cluster.train(LONG)
    until(lambda: steps_of(run) > 10)
    began = time.monotonic()
    beacons = run.beacons()
    assert time.monotonic() - began < 0.5
    assert set(beacons) == {0, 1, 2, 3}
    assert all(beacon["answered"] and beacon["step"] > 0 for beacon in beacons.values())
    until(lambda: any(beacon["operation"] is not None for beacon in run.beacons().values()))
    status = cluster.status()
    assert status.state == "up"
    assert {row.state for row in status.rows} == {"running"}
    assert "simulated" in str(status)
    run.abort()
    run.wait(30)


# -- ends ------------------------------------------------------------------------------------------------------------


def test_a_failing_rank_fails_the_run_and_the_cluster_goes_on(cluster: VirtualCluster) -> None:
    run = cluster.train(Job(steps=50, learning_rate=1e30))
    with pytest.raises(
        RankFailed, match=r"rank \d on .* \(virtual\) failed at step (\d+): Diverged: the loss of rank \d is .* at step \1;"
    ) as caught:
        run.wait(60)
    assert "Traceback" in str(caught.value)
    assert run.status == "failed"
    assert len(run.rows("steps")) > 0
    assert cluster.train(Job(steps=1)).wait(60).status == "done"


def test_a_killed_world_fails_the_run_with_a_clear_text(tmp_path: Path) -> None:
    cluster = VirtualCluster(2, device=DEVICE, folder=tmp_path).start()
    try:
        run = cluster.train(LONG)
        until(lambda: len(read_table(run.folder, "steps")) > 10)
        os.kill(cluster.status().rows[0].pid, signal.SIGKILL)
        with pytest.raises(WorkbenchError, match=r"the process of the virtual world is gone \(killed by SIGKILL\)"):
            run.wait(30)
        assert run.status == "failed"
        assert read_json(run.folder / "status.json")["status"] == "failed"
        assert len(read_table(run.folder, "steps")) > 0
        assert cluster.status().state == "damaged"
        with pytest.raises(ClusterGone, match=r"is damaged; its process is gone; .*cluster\.start\(\)"):
            cluster.train(Job(steps=2))
        assert cluster.start().train(Job(steps=2)).wait(60).status == "done"  # in a fresh world
    finally:
        cluster.stop()
    assert cluster.status().state == "down"


def test_a_world_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.errors import ClusterNotStarted

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho 'no module named anything' >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(ClusterNotStarted, match=r"exit status 3.*\n.*no module named anything"):
        VirtualCluster(2, folder=tmp_path).start(timeout=10)


def test_stop_keeps_what_was_recorded_and_restart_gives_a_fresh_world(tmp_path: Path) -> None:
    cluster = VirtualCluster(2, device=DEVICE, folder=tmp_path)
    assert cluster.status().state == "down"
    run = cluster.train(LONG)  # starts it
    until(lambda: steps_of(run) > 10)
    before = cluster.status().rows[0].pid
    assert cluster.restart() is cluster
    assert run.status == "stopped"
    assert len(read_table(run.folder, "steps")) == steps_of(run)
    assert cluster.status().rows[0].pid != before
    assert not psutil.pid_exists(before)
    cluster.stop()
    cluster.stop()
    with pytest.raises(ClusterGone, match=r"is down; start it: cluster\.start\(\)"):
        cluster.train(LONG)


def test_the_world_ends_with_the_notebook_and_ignores_its_ctrl_c(tmp_path: Path) -> None:
    code = f"""
        import os, signal, sys, time
        from workbench import Device, Job, VirtualCluster
        cluster = VirtualCluster(2, device=Device(seconds_per_sample=1e-4, seconds_per_update=0.0), folder={str(tmp_path)!r})
        run = cluster.train(Job(steps=1_000_000, batch_size=4))
        while not len(run.rows("steps")):
            time.sleep(0.01)
        print(cluster.status().rows[0].pid, flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        n = len(run.rows("steps"))
        while len(run.rows("steps")) <= n:
            time.sleep(0.01)
        print("goes on", flush=True)
        sys.stdin.read()
    """
    notebook = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert notebook.stdout is not None
        pid = int(notebook.stdout.readline())
        assert notebook.stdout.readline() == "goes on\n"
        assert psutil.pid_exists(pid)
    finally:
        notebook.kill()
        notebook.communicate()
    until(lambda: not psutil.pid_exists(pid), 20)
    (folder,) = tmp_path.iterdir()
    assert read_json(folder / "status.json")["status"] == "stopped"


def test_a_second_run_is_refused_while_one_is_on(cluster: VirtualCluster) -> None:
    run = cluster.train(LONG)
    with pytest.raises(ClusterBusy, match=run.folder.name):
        cluster.train(Job(steps=1))
    run.abort()
    run.wait(30)


def test_user_data_that_fails_is_told(cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("def data():\n    raise OSError('the disk with the images is not mounted')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RankFailed, match=r"OSError: the disk with the images is not mounted \(broken\.py:2 in data\)"):
        cluster.train(Job(data="broken:data")).wait(60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": 0}, r"VirtualCluster\(ranks=0\): ranks must be a whole number of at least 1, got 0"),
        ({"ranks": 2.5}, "whole number"),
        ({"pace": "slow"}, "pace must be 'fast' or 'real', got 'slow'"),
        ({"network": "1T"}, "unknown network '1T'"),
        ({"device": 3}, "device must be a Device, got int"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VirtualCluster(**options)


def test_a_job_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    cluster = VirtualCluster(64, folder=tmp_path)
    with pytest.raises(ValueError, match="64 workers share 1437 training samples"):
        cluster.train(Job(batch_size=32))
    with pytest.raises(ValueError, match="takes a Job, got dict"):
        cluster.train({})  # type: ignore[arg-type]
    assert cluster.status().state == "down"
    assert not list(tmp_path.iterdir())
