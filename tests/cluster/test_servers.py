"""Real ranks of which one keeps the centre: steered, aborted, and with a worker or the server killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cluster.test_cluster import Seen, feed_of, until
from workbench import Cluster, Job
from workbench.errors import RankFailed
from workbench.runs.run import Run
from workbench.strategies import Elastic, Gossip, ParameterServer, Strategy

pytestmark = pytest.mark.cluster

SERVER = 3


def endless(strategy: Strategy) -> Job:
    """A job that ends only when it is ended; its learning rate is small, so that it never diverges."""
    return Job(strategy=strategy, steps=10**6, learning_rate=0.01, momentum=0.0)


def training(cluster: Cluster, step: int = 20) -> None:
    """Wait until every worker has done some steps, and the server as many updates; engines that have just been started load torch first."""
    feed = feed_of(cluster)
    until(lambda: feed.finished() or all(beacon["step"] >= step for beacon in feed.beacons().values()), 60)
    assert feed.finished() is None, feed.finished()


def accounted(run: Run, every: int) -> None:
    """What workers did is in the centre, once: all their steps, the last ones too."""
    rows, steps = run.table("server"), run.table("steps")
    done = {int(event["rank"]): int(event["step"]) for _, event in run.events().query("kind == 'end'").iterrows()}
    for worker in range(SERVER):
        clocks = rows["clock"][rows["peer"] == worker]
        assert clocks.tolist() == list(range(1, len(clocks) + 1))
        assert np.count_nonzero(steps["rank"] == worker) == done[worker]
        assert len(clocks) == -(-done[worker] // every)
    assert rows["update"].tolist() == list(range(len(rows)))


def loads(run: Run, which: str) -> dict[str, torch.Tensor]:
    """A model that was kept, finite."""
    state: dict[str, torch.Tensor] = run.model(which).state_dict()
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    return state


def test_workers_that_do_not_wait_are_steered_and_all_they_did_is_in_the_centre(cluster4: Cluster) -> None:
    run = cluster4.train(endless(ParameterServer(every=3)))
    seen = Seen(feed_of(cluster4))
    training(cluster4)
    run.pause()
    until(lambda: len(seen.steps_of("pause")) == SERVER)
    held = {row["rank"]: row["step"] for row in seen.events if row["kind"] == "pause"}
    run.step(4)
    until(lambda: len(seen.steps_of("pause")) == 2 * SERVER)
    for event in [event for event in seen.events if event["kind"] == "pause"][SERVER:]:
        assert event["step"] == held[event["rank"]] + 4
    run.change(learning_rate=0.02, momentum=0.5)
    run.resume()
    until(lambda: {event["rank"] for event in seen.events if event["kind"] == "change"} == {0, 1, 2, SERVER}, 20)
    rates = dict.fromkeys(range(SERVER), 0.02)
    until(lambda: {int(row["rank"]): round(float(row["learning_rate"]), 4) for row in run.rows("steps")} == rates)
    run.stop()
    assert run.wait(20).status == "stopped"
    accounted(run, 3)
    final, centre = loads(run, "final"), loads(run, "centre")
    assert all(torch.equal(final[part], centre[part]) for part in final)


@pytest.mark.parametrize("strategy", [ParameterServer(), ParameterServer(servers=2), Elastic(every=2), Elastic(server=False, every=2)], ids=str)
def test_an_abort_keeps_the_centre(strategy: Strategy, cluster4: Cluster) -> None:
    run = cluster4.train(endless(strategy))
    training(cluster4)
    run.abort()
    assert run.wait(15).status == "stopped"
    loads(run, "centre")
    assert not (run.folder / "checkpoints" / "final.json").exists()


def test_a_server_that_is_killed_is_named_and_the_centre_is_kept(cluster4: Cluster) -> None:
    run = cluster4.train(endless(ParameterServer()))
    training(cluster4)
    os.kill(cluster4.status().rows[SERVER].pid, signal.SIGKILL)
    with pytest.raises(RankFailed, match=r"rank 3 .*its process is gone"):
        run.wait(30)
    assert run.status == "failed"
    loads(run, "centre")


@pytest.mark.parametrize(("strategy", "dead"), [(ParameterServer(mode="stale", staleness=2), 0), (Gossip(), 1)], ids=str)
def test_workers_go_on_without_one_that_is_killed(strategy: Strategy, dead: int, cluster4: Cluster) -> None:
    run = cluster4.train(endless(strategy))
    seen = Seen(feed_of(cluster4))
    training(cluster4)
    os.kill(cluster4.status().rows[dead].pid, signal.SIGKILL)
    until(lambda: cluster4.status().missing == [dead], 20)
    before = {rank: feed_of(cluster4).beacons()[rank]["step"] for rank in range(4) if rank != dead}
    until(lambda: all(feed_of(cluster4).beacons()[rank]["step"] > step + 20 for rank, step in before.items()))
    run.stop()
    assert run.wait(30).status == "stopped"
    assert run.error is None
    faults = [event for event in seen.events if event["kind"] == "fault"]
    assert [event["rank"] for event in faults] == [dead], faults
    assert "its process died" in faults[0]["message"]
    final = loads(run, "final")
    if "server" in strategy.roles(4):
        centre = loads(run, "centre")
        assert all(torch.equal(final[part], centre[part]) for part in final)
        rows, steps = run.table("server"), run.table("steps")
        for worker in set(range(SERVER)) - {dead}:
            clocks = rows["clock"][rows["peer"] == worker]
            assert clocks.tolist() == list(range(1, np.count_nonzero(steps["rank"] == worker) + 1)), "all that survivors did is in the centre"
    assert run.validation().query("rank == -1")["samples"].iloc[-1] == 360


FAULTY = """
import os, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", 0)))
        if self.calls == 30 and rank == 1:
            raise KeyError("no such layer")
        return self.layer(x.flatten(1))
"""


def test_a_worker_whose_code_fails_ends_the_run_and_the_centre_is_kept(cluster4: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on is for ranks that die; an error in the user's code is to be seen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty_net.py").write_text(FAULTY)
    run = cluster4.train(endless(ParameterServer()).replace(model="faulty_net:Net"))
    with pytest.raises(RankFailed, match=r"rank 1 .* failed at step 29: KeyError: 'no such layer'"):
        run.wait(30)
    before: dict[str, Any] = torch.nn.Linear(64, 10).state_dict()
    assert {name.removeprefix("layer."): tensor.shape for name, tensor in loads(run, "centre").items()} == {n: t.shape for n, t in before.items()}
    rows = run.table("server")
    assert rows["clock"][rows["peer"] == 1].max() == 29
