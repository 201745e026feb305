"""A real cluster of four ranks: trained on, steered, watched from another process, damaged and restarted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from workbench import Cluster, Job
from workbench.channel import reaper
from workbench.channel.client import GRACE_SECONDS, EngineFeed
from workbench.channel.launch import find_mpi
from workbench.channel.processes import profile_dir
from workbench.errors import ClusterBusy, ClusterGone, RankFailed

pytestmark = pytest.mark.cluster

LONG = Job(steps=10**6)


def feed_of(cluster: Cluster) -> EngineFeed:
    assert cluster._feed is not None
    return cluster._feed


def until(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def training(cluster: Cluster, step: int = 5) -> None:
    """Wait until every rank has done some steps."""
    feed = feed_of(cluster)
    until(lambda: feed.finished() or all(beacon["step"] >= step for beacon in feed.beacons().values()))
    assert feed.finished() is None, feed.finished()


class Seen:
    """Rows and events as they arrive: for each source and table, the numbers of the rows."""

    def __init__(self, feed: EngineFeed) -> None:
        self.rows: dict[tuple[str, str], list[int]] = {}
        self.events: list[dict[str, Any]] = []
        feed.subscribe(self.take)
        feed.subscribe_events(self.events.append)

    def take(self, source: str, table: str, first: int, rows: np.ndarray) -> None:
        self.rows.setdefault((source, table), []).extend(range(first, first + len(rows)))

    def steps_of(self, kind: str) -> list[int]:
        return [event["step"] for event in self.events if event["kind"] == kind]


def test_status_tells_where_every_rank_is(cluster4: Cluster) -> None:
    status = cluster4.status()
    assert (status.state, status.ranks) == ("up", 4)
    assert [row.rank for row in status.rows] == [0, 1, 2, 3]
    assert len({row.pid for row in status.rows}) == 4
    assert {row.device for row in status.rows} == {"CPU"}
    assert {row.transport for row in status.rows} == {"host"}
    assert "Open MPI" in status.mpi or "MPICH" in status.mpi


def test_nothing_of_ours_listens_to_the_network(cluster4: Cluster) -> None:
    for found in reaper.processes(profile_dir(), cluster4.name):
        if "prterun" in found.command or "mpiexec" in found.command or "hydra" in found.command:
            continue  # the launcher's own socket, which cannot be told where to listen
        for connection in psutil.Process(found.pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1"), found.command


def test_all_records_arrive_once_and_in_order(cluster4: Cluster) -> None:
    cluster4.train(Job(steps=500))
    feed = feed_of(cluster4)
    seen = Seen(feed)
    assert feed.wait(60)
    assert feed.finished() == {"status": "done", "steps": 500, "error": None}
    for rank in range(4):
        source = f"rank-{rank:05d}.0"
        # what was pushed before the subscription is pulled
        numbers = seen.rows[source, "steps"]
        missed, rows = feed.pull(source, "steps", 0)
        assert missed == 0
        assert rows["step"].tolist() == list(range(500))
        assert numbers == list(range(numbers[0], 500))
        assert numbers[0] < 250
    assert [event["number"] for event in seen.events if event["source"] == "rank-00000.0"][-1] >= 2
    assert sorted(event["rank"] for event in seen.events if event["kind"] == "end") == [0, 1, 2, 3]
    assert json.loads((feed._folder / "status.json").read_text())["status"] == "done"


def test_commands_reach_busy_ranks_and_take_effect_at_one_step(cluster4: Cluster) -> None:
    cluster4.train(LONG)
    feed = feed_of(cluster4)
    seen = Seen(feed)
    training(cluster4)
    with pytest.raises(ClusterBusy, match=r"is on .* run\.wait\(\).* run\.stop\(\)"):
        cluster4.train(Job())
    assert feed.command("pause", {}) == 1
    until(lambda: len(seen.steps_of("pause")) == 4)
    until(lambda: {row.state for row in cluster4.status().rows} == {"paused"})
    assert feed.command("change", {"learning_rate": 0.02}) == 2
    assert feed.command("resume", {}) == 3
    until(lambda: len(seen.steps_of("resume")) == 4)
    assert feed.command("stop", {}) == 4
    assert feed.wait(20)
    assert feed.finished()["status"] == "stopped"  # type: ignore[index]
    for kind in ("pause", "change", "resume", "stop"):
        assert len(set(seen.steps_of(kind))) == 1, kind
        assert len(seen.steps_of(kind)) == 4, kind


def test_commands_of_several_threads_come_in_one_order(cluster4: Cluster) -> None:
    cluster4.train(LONG)
    feed = feed_of(cluster4)
    training(cluster4)
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: numbers.extend(feed.command("change", {"learning_rate": 0.01 * (i + 1)}) for _ in range(5)))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 16))
    assert feed.command("stop", {}) == 16
    assert feed.wait(20)
    rates = [feed.pull(f"rank-{rank:05d}.0", "steps", 0)[1]["learning_rate"].tolist() for rank in range(4)]
    assert rates[0] == rates[1] == rates[2] == rates[3]


def test_abort_ends_a_run_at_once_and_the_next_one_works(cluster4: Cluster) -> None:
    cluster4.train(LONG)
    training(cluster4)
    began = time.monotonic()
    assert feed_of(cluster4).command("abort", {}) == 0
    assert feed_of(cluster4).wait(10)
    assert time.monotonic() - began < 5
    assert feed_of(cluster4).finished()["status"] == "stopped"  # type: ignore[index]
    cluster4.train(Job(steps=20))
    assert feed_of(cluster4).wait(30)
    assert feed_of(cluster4).finished()["status"] == "done"  # type: ignore[index]


@pytest.mark.skipif("--with-ft" not in find_mpi().arguments(), reason="this MPI ends all ranks with one that dies")
def test_gossip_goes_on_without_a_rank_that_is_killed(cluster4: Cluster) -> None:
    run = cluster4.train(Job(strategy="gossip", steps=10**6))
    training(cluster4)
    seen = Seen(feed_of(cluster4))
    os.kill(cluster4.status().rows[2].pid, signal.SIGKILL)
    until(lambda: feed_of(cluster4).beacons()[2]["state"] == "lost")
    reached = feed_of(cluster4).beacons()[0]["step"]
    time.sleep(GRACE_SECONDS + 1)  # nobody ends the others
    until(lambda: all(feed_of(cluster4).beacons()[rank]["step"] > reached + 20 for rank in (0, 1, 3)))
    run.stop()
    assert feed_of(cluster4).wait(30)
    ended = feed_of(cluster4).finished()
    assert ended is not None
    assert (ended["status"], ended["error"]) == ("stopped", None)
    assert run.wait(10).status == "stopped"
    assert [event["rank"] for event in seen.events if event["kind"] == "fault"] == [2]
    assert cluster4.status().missing == [2]
    with pytest.raises(ClusterGone, match=r"rank 2 is missing .*cluster\.restart\(\)"):
        cluster4.train(Job())


NET = """
import os, sys, time, torch
from net_parts import WIDTH
print("made with", WIDTH)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", 0)))
        if self.training and self.calls == WIDTH and rank == 2:
            raise KeyError("no such layer")
        return self.layer(x.flatten(1))
"""


def test_the_rank_that_fails_is_named_once_and_changed_code_is_imported_again(
    cluster4: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_model.py").write_text(NET)
    (tmp_path / "net_parts.py").write_text("WIDTH = 4\n")
    job = Job(model="net_model:Net", steps=50)
    run = cluster4.train(job)
    assert feed_of(cluster4).wait(30)
    ended = feed_of(cluster4).finished()
    assert ended is not None
    error = ended["error"]
    assert (ended["status"], error["rank"], error["step"]) == ("failed", 2, 3)
    assert "KeyError: 'no such layer'" in error["where"]
    assert 'net_model.py", line' in error["traceback"]
    with pytest.raises(RankFailed, match=r"rank 2 on .* \(CPU\) failed at step 3: KeyError: 'no such layer'") as failed:
        run.wait(10)
    assert str(failed.value).count("Traceback") == 1
    assert {row.state for row in cluster4.status().rows} == {"failed"}
    modules = json.loads((run.folder / "job.json").read_text())["modules"]
    assert sorted(modules) == ["net_model", "net_parts"]
    assert (run.folder / "rank-00001.out").read_text() == "made with 4\n"

    (tmp_path / "net_parts.py").write_text("WIDTH = 10_000\n")
    run = cluster4.train(job)
    assert feed_of(cluster4).wait(30)
    assert feed_of(cluster4).finished()["status"] == "done"  # type: ignore[index]
    assert (run.folder / "rank-00003.out").read_text() == "made with 10000\n"


SECOND = """
import json, sys, time
from workbench import Cluster
began = time.monotonic()
cluster = Cluster(ranks=4, name=sys.argv[1], devices="cpu").start()
attached = time.monotonic() - began
run, feed = cluster.run, cluster._feed
first, rows = feed.pull("rank-00002.0", "steps", 0)
number = feed.command("stop", {})
assert feed.wait(20)
print(json.dumps([attached, str(run.folder), first, rows["step"].tolist()[:3], number, feed.finished(), feed.sources()["rank-00002.0"]["steps"]]))
cluster.__exit__(None, None, None)
"""


def test_another_process_attaches_sees_the_whole_run_and_stops_it(cluster4: Cluster) -> None:
    run = cluster4.train(LONG)
    feed = feed_of(cluster4)
    training(cluster4)
    assert feed.command("change", {"learning_rate": 0.05}) == 1
    told = subprocess.run([sys.executable, "-c", SECOND, cluster4.name], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    attached, folder, first, steps, number, ended, count = json.loads(told.stdout)
    assert (folder, first, steps, number) == (str(run.folder), 0, [0, 1, 2], 2)
    assert ended["status"] == "stopped"
    assert feed.wait(10)
    assert feed.finished() == ended
    assert feed.sources()["rank-00002.0"]["steps"] == count
    assert attached < 5  # measured elsewhere; here other tests may run
    assert cluster4.status().state == "up", "whoever attached does not stop the cluster at the end of a with"


def test_a_cluster_of_this_name_that_differs_is_refused(cluster4: Cluster) -> None:
    with pytest.raises(ValueError, match=r"is up with ranks=4, devices='cpu', launcher='mpi', this one has ranks=3, devices='cpu'"):
        Cluster(ranks=3, name=cluster4.name, devices="cpu").start()
    with pytest.raises(ValueError, match="this one has ranks=4, devices='auto'"):
        Cluster(name=cluster4.name).start()
    attached = Cluster.attach(cluster4.name)
    assert (attached.ranks, attached.devices) == (4, "cpu")
    attached.detach()


def test_a_rank_that_hangs_is_seen_and_does_not_answer(cluster4: Cluster) -> None:
    cluster4.train(LONG)
    training(cluster4)
    pid = cluster4.status().rows[1].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        beacons = until(lambda: (told := feed_of(cluster4).beacons()) and not told[1]["answered"] and told)
        assert beacons[0]["answered"]
        assert beacons[0]["operation"]
        assert beacons[0]["since_seconds"] > 1
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: feed_of(cluster4).beacons()[1]["answered"])
    feed_of(cluster4).command("abort", {})
    assert feed_of(cluster4).wait(10)


def test_a_rank_that_is_killed_is_named_and_restart_brings_fresh_ones(cluster4: Cluster) -> None:
    cluster4.train(LONG)
    training(cluster4)
    os.kill(cluster4.status().rows[3].pid, signal.SIGKILL)
    assert feed_of(cluster4).wait(20)
    ended = feed_of(cluster4).finished()
    assert ended is not None
    assert ended["status"] == "failed"
    assert ended["error"]["rank"] == 3
    assert ended["error"]["where"].startswith("its process is gone")
    status = cluster4.status()
    if status.missing == [3]:  # MPI libraries without fault tolerance end all ranks
        assert status.state == "damaged"
        assert "cluster.restart()" in str(status)
    with pytest.raises(ClusterGone, match=r"missing .*cluster\.restart\(\)"):
        cluster4.train(Job())
    cluster4.restart()
    assert cluster4.status().state == "up"
    cluster4.train(Job(steps=20))
    assert feed_of(cluster4).wait(30)
    assert feed_of(cluster4).finished()["status"] == "done"  # type: ignore[index]
