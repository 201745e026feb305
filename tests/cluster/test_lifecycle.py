"""Clusters that come, go, crash and do not start; two ranks each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.test_cluster import LONG, feed_of, training, until
from workbench import Cluster, Job
from workbench.channel import launch, reaper
from workbench.channel.processes import profile_dir
from workbench.cluster import registry
from workbench.errors import ClusterGone, ClusterNotStarted

pytestmark = pytest.mark.cluster

HANG = """
import ctypes, time, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        time.sleep(0.01)
        if self.calls == 300:
            ctypes.PyDLL(None).sleep(100)  # C code that keeps the interpreter's lock
        return self.layer(x.flatten(1))
"""


def workbench(*words: str) -> str:
    """What the command line says."""
    command = [sys.executable, "-c", "from workbench.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(ranks=2, name=f"pair-{os.getpid()}", devices="cpu", folder=tmp_path)
    yield cluster
    cluster_memory = [Path(file) for told in cluster._engines.hello.values() for file in told["memory"]]
    cluster.stop()
    assert reaper.processes(profile_dir(), cluster.name) == []
    assert not [file for file in cluster_memory if file.exists()], "no shared memory is left"
    assert not list((profile_dir() / "security").glob(f"*{cluster.name}*.json")), "no stale connection file"


def test_a_crash_of_the_controller_costs_no_records_and_leaves_nothing(pair: Cluster) -> None:
    with pair:
        run = pair.train(LONG)
        training(pair)
        engines = [psutil.Process(row.pid) for row in pair.status().rows]
        controller = pair._engines.processes.controller_pid
        psutil.Process(controller).kill()
        began = time.monotonic()
        _, alive = psutil.wait_procs(engines, timeout=30)
        assert not alive, "an engine without a controller ends by itself"
        assert time.monotonic() - began < 30
        assert list((run.folder / "checkpoints").iterdir()), "the model was kept"
        assert feed_of(pair).wait(20)
        assert pair.status().state == "down"
        # the controller's children live on: whoever starts this cluster next clears them away
        assert f"{pair.name} left over" in " ".join(workbench("list").split())
        pair.start()
        assert pair.status().state == "up"
        workbench("stop", pair.name)
        assert reaper.processes(profile_dir(), pair.name) == []
    assert pair.status().state == "down"


def test_ranks_that_hang_in_c_code_are_stopped(pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hang_model.py").write_text(HANG)
    pair.start()
    pair.train(Job(model="hang_model:Net", steps=1000))
    other = Cluster.attach(pair.name, folder=pair.folder)
    seen = other.run
    assert seen is not None
    until(lambda: any(not beacon["answered"] and beacon["step"] for beacon in feed_of(pair).beacons().values()), 20)
    began = time.monotonic()
    feed = feed_of(pair)
    pair.restart()
    assert time.monotonic() - began < 15
    assert feed.wait(5)
    ended = feed.finished()
    assert ended is not None
    assert (ended["status"], ended["error"]) == ("stopped", None)
    assert ended["steps"] > 0
    assert seen.wait(15).status == "stopped", "another notebook reads it so too"
    other.detach()
    pair.train(Job(model="hang_model:Net", steps=1000))
    until(lambda: any(not beacon["answered"] and beacon["step"] for beacon in feed_of(pair).beacons().values()), 20)
    began = time.monotonic()
    pair.stop()
    assert time.monotonic() - began < 15


def test_engines_that_do_not_start_show_their_log(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.MpiProfile, "arguments", lambda self: ["--no-such-option"])
    began = time.monotonic()
    with pytest.raises(ClusterNotStarted, match=r"0 of 2 came up, then mpiexec ended\n[\s\S]*no-such-option"):
        pair.start()
    assert time.monotonic() - began < 20, "nobody waits for the time limit when mpiexec has ended"
    assert registry.read(pair.name) is None


def test_engines_that_take_too_long(pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mpiexec"
    program.write_text("#!/bin/sh\necho waiting for nodes\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("workbench.cluster.engines.find_mpi", lambda: launch.MpiProfile("other", "a slow MPI", str(program)))
    with pytest.raises(ClusterNotStarted, match=r"took longer than 2 s[\s\S]*waiting for nodes"):
        pair.start(timeout=2)


def test_files_named_like_standard_modules_do_no_harm(pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("random", "glob", "socket"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    (tmp_path / "my_net.py").write_text(
        "import torch\ndef net(input_shape, classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))"
    )
    monkeypatch.chdir(tmp_path)
    with pair:
        assert pair.train(Job(model="my_net:net", steps=3)).wait().summary()["status"] == "done"


def test_a_controller_that_does_not_come_up_shows_its_output(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.channel.processes._CONTROLLER", ["--HeartMonitor.period=often"])
    with pytest.raises(ClusterNotStarted, match=r"the controller did not come up: [\s\S]*often"):
        pair.start()
    assert registry.read(pair.name) is None


STARTER = """
import sys
from workbench import Cluster
from workbench.cluster.engines import Engines
Engines._start = lambda *given: print("controller", flush=True) or sys.stdin.read()
Cluster(ranks=2, name=sys.argv[1], devices="cpu").start()
"""


def test_a_start_that_was_killed_is_left_over_and_the_next_one_works(pair: Cluster) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, pair.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdin is not None
    assert starter.stdout is not None
    assert starter.stdout.readline() == "controller\n"
    assert f"{pair.name} starting" in " ".join(workbench("list").split())
    with pytest.raises(ClusterGone, match="being started"):
        Cluster.attach(pair.name)
    starter.kill()
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()
    assert f"{pair.name} left over" in " ".join(workbench("list").split())
    with pytest.raises(ClusterGone, match="left over"):
        Cluster.attach(pair.name)
    assert pair.start().status().state == "up"
    record = registry.read(pair.name)
    assert record is not None
    assert record.state == "up"


def test_attaching_never_starts_a_cluster(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.start()
    record = registry.read(pair.name)
    assert record is not None
    pair.stop()
    # what another process reads just before it is stopped
    monkeypatch.setattr(registry, "read", lambda name: record)
    monkeypatch.setattr(registry, "running", lambda: [registry.Listed(pair.name, "up", 2, record)])
    with pytest.raises(ClusterGone, match="stopped meanwhile"):
        Cluster.attach(pair.name)
    assert reaper.processes(profile_dir(), pair.name) == []


def test_a_restart_that_is_interrupted_leaves_nothing_half(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.start()
    with monkeypatch.context() as patch:
        patch.setattr("workbench.cluster.engines.Engines._greet", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pair.restart()
    assert reaper.processes(profile_dir(), pair.name) == []
    assert registry.read(pair.name) is None
    pair.restart()
    psutil.Process(pair.status().rows[1].pid).kill()
    until(lambda: pair.status().state == "damaged")
    pair.start()
    assert pair.status().state == "up", "start replaces what is missing"
    assert pair.train(Job(steps=2)).wait().status == "done"


def _interrupt(*given: object) -> None:
    raise KeyboardInterrupt


def test_the_command_line_stops_another_notebook_s_run_in_order(pair: Cluster) -> None:
    pair.start()
    run = pair.train(LONG)
    training(pair)
    workbench("stop", pair.name)
    assert feed_of(pair).wait(10)
    assert run.status == "stopped"
    assert (run.folder / "checkpoints" / "final.json").is_file()
    assert json.loads((run.folder / "status.json").read_text())["status"] == "stopped"


def test_doctor_names_what_listens_to_the_network(pair: Cluster) -> None:
    from workbench.cli.doctor import _sockets

    with pair:
        code = "import socket, sys; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen(); print(s.getsockname()[1], flush=True); sys.stdin.read()"
        environ = {**os.environ, reaper.CLUSTER_ID: pair.name, reaper.PROFILE_DIR: str(profile_dir())}
        process = subprocess.Popen([sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert any(f"of {pair.name!r} on 0.0.0.0 port {port}" in finding.text for finding in _sockets())
        process.communicate("")


SLEEPY = """
import os, time, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        if self.calls == 5 and int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", 0))) == 1:
            time.sleep(1000)
        return self.layer(x.flatten(1))
"""


def test_an_abort_ends_a_rank_that_sleeps_and_the_ranks_go_on(pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleepy_net.py").write_text(SLEEPY)
    monkeypatch.chdir(tmp_path)
    pair.start()
    run = pair.train(Job(model="sleepy_net:Net", steps=100))
    until(lambda: feed_of(pair).beacons()[1]["step"] >= 3)
    run.abort()
    assert run.wait(12).status == "stopped"
    assert pair.train(Job(steps=3)).wait(30).status == "done"


def test_mpiexec_that_is_killed_is_told_and_no_rank_blamed(pair: Cluster) -> None:
    pair.start()
    pair.train(LONG)
    training(pair)
    psutil.Process(pair._engines.processes._cluster.engine_set.pid).kill()
    assert feed_of(pair).wait(30)
    error = feed_of(pair).finished()["error"]  # type: ignore[index]
    assert (error["rank"], "mpiexec has ended" in error["where"]) == (-1, True), error


OWNER = """
import sys, time
from workbench import Cluster, Job
with Cluster(ranks=2, name=sys.argv[1], devices="cpu", folder=sys.argv[2]) as cluster:
    run = cluster.train(Job(steps=10**7))
    while not len(run.rows("steps")):
        time.sleep(0.01)
    print(run.folder, flush=True)
    time.sleep(100)
"""


def test_an_owner_that_is_killed_leaves_its_model_and_no_process(tmp_path: Path) -> None:
    name = f"owned-{os.getpid()}"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, name, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not reaper.processes(profile_dir(), name), 45)
    assert (folder / "checkpoints" / "final.json").is_file()
