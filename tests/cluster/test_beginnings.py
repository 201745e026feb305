"""How a cluster and its runs begin, and what is said of a cluster on which none can begin any more; two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_cluster import LONG, feed_of, training, until
from workbench import Cluster, Job
from workbench.channel import reaper
from workbench.channel.processes import profile_dir
from workbench.errors import ClusterGone, RankFailed

pytestmark = pytest.mark.cluster


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(ranks=2, name=f"begin-{os.getpid()}", devices="cpu", folder=tmp_path / "runs")
    yield cluster
    cluster.stop()
    assert reaper.processes(profile_dir(), cluster.name) == []


def test_training_starts_the_cluster_once_and_a_stopped_one_is_not_started_again(pair: Cluster) -> None:
    assert pair.train(Job(steps=2)).wait(30).status == "done"
    pair.detach()
    assert str(pair.status()).startswith(f"cluster {pair.name!r}: up, not attached, 2 ranks")
    with pytest.raises(ClusterGone, match=r"is up, not attached; attach to it: cluster\.start\(\)"):
        pair.train(Job())
    other = Cluster(ranks=2, name=pair.name, devices="cpu", folder=pair.folder)
    assert not other.status().attached
    assert other.train(Job(steps=2)).wait(30).status == "done"
    other.detach()
    assert pair.start().status().state == "up"
    pair.stop()
    with pytest.raises(ClusterGone, match=r"is down; start it: cluster\.start\(\)"):
        pair.train(Job())


def test_an_abort_just_after_the_order_leaves_a_cluster_that_works(pair: Cluster) -> None:
    pair.start()
    for milliseconds in (0, 5, 15, 30, 60, 100, 0):
        run = pair.train(LONG)
        time.sleep(milliseconds / 1000)
        run.abort()
        assert run.wait(10).status == "stopped"
    assert pair.status().state == "up"
    assert pair.train(Job(steps=2)).wait(30).status == "done"


def test_ranks_that_cannot_meet_any_more_are_told_and_restarted(pair: Cluster, tmp_path: Path) -> None:
    link = pair.start()._engines.link
    assert link is not None
    lone = str(tmp_path)
    link.ask("begin", [0], run=lone, job=Job().to_json(), directory=lone)  # the other rank never hears of it
    link.ask("abort", [0], run=lone)
    until(lambda: pair.status().state == "damaged", 20)
    assert "not all ranks came to the start of a run" in str(pair.status())
    assert "cluster.restart()" in str(pair.status())
    with pytest.raises(ClusterGone, match=r"no run can begin any more .*cluster\.restart\(\)"):
        pair.train(Job())
    assert pair.restart().status().state == "up"
    assert pair.train(Job(steps=2)).wait(30).status == "done"


def test_an_error_is_placed_in_the_user_s_file(pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text("from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(63))\n")
    with pytest.raises(RankFailed, match=r"failed at step 0: TypeError: .* \(wrong\.py:5 in net\)"):
        pair.train(Job(model="wrong:net", steps=2)).wait(30)


def test_a_restart_ends_the_run_that_is_on(pair: Cluster) -> None:
    pair.start()
    run = pair.train(LONG)
    training(pair)
    pair.restart()
    assert run.wait(10).status == "stopped"
    assert feed_of(pair).finished()["error"] is None  # type: ignore[index]
    assert pair.train(Job(steps=2)).wait(30).status == "done"


OWNER = """
import sys
from workbench import Cluster
from workbench.cluster.engines import Engines
Engines._greet = lambda *given: print("engines", flush=True) or sys.stdin.read()
with Cluster(ranks=2, name=sys.argv[1], devices="cpu"):
    pass
"""


def test_an_owner_that_is_killed_while_it_starts_leaves_nothing() -> None:
    name = f"starting-{os.getpid()}"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdin is not None
    assert owner.stdout is not None
    assert owner.stdout.readline() == "engines\n"
    assert any("workbench.channel.engine" in process.command for process in reaper.processes(profile_dir(), name))
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    until(lambda: not reaper.processes(profile_dir(), name), 40)
