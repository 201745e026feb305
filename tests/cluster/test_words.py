"""What a person can choose wrongly, and what they are told; no cluster is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench import Cluster
from workbench.channel.launch import MpiProfile
from workbench.channel.processes import profile_dir
from workbench.cluster import registry
from workbench.cluster.facts import cluster_facts, git_commit
from workbench.cluster.status import ClusterStatus, RankStatus
from workbench.cluster.trouble import explain
from workbench.comm.network import Network
from workbench.errors import ClusterGone, ClusterNotStarted


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ranks": 0}, "ranks must be a whole number of at least 1, got 0"),
        ({"ranks": -3}, "ranks must be a whole number of at least 1, got -3"),
        ({"ranks": 2.5}, "ranks must be a whole number of at least 1, got 2.5"),
        ({"ranks": True}, "ranks must be a whole number of at least 1, got True"),
        ({"launcher": "slurm"}, "this launcher is not built yet; launcher must be 'mpi', got 'slurm'"),
        ({"launcher": "mpii"}, "unknown launcher 'mpii'; did you mean 'mpi'"),
        ({"hosts": ["a", "b"]}, "several hosts are not built yet; hosts must be None"),
        ({"network": "2G"}, r"Cluster\(network='2G'\): unknown network '2G'; did you mean '1G'"),
        ({"network": 1e9}, "network must be None, a Network or one of 100M, 1G, 10G, got float"),
        ({"name": "a b"}, "name must be letters, digits"),
        ({"name": "../x"}, "name must be letters, digits"),
        ({"devices": "gpu"}, 'devices must be "auto", "cpu" or a list'),
        ({"devices": [0, -1]}, 'devices must be "auto", "cpu" or a list .* got -1'),
    ],
)
def test_wrong_choices(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cluster(**given)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.training.devices._from_smi", lambda: [])
    monkeypatch.setattr("workbench.training.devices._from_proc", lambda: [])
    with pytest.raises(ValueError, match="there is no GPU 0 here; visible GPUs: none"):
        Cluster(2, name="nogpu", devices=[0]).start()
    assert registry.read("nogpu") is None


def test_what_is_not_started_says_so() -> None:
    cluster = Cluster(2, name="never")
    status = cluster.status()
    assert status.state == "down"
    assert "cluster.start()" in str(status)
    assert cluster.run is None
    cluster.stop()
    from workbench import Job

    with pytest.raises(ClusterGone, match=r"is down; start it: cluster\.start\(\)"):
        cluster.train(Job())  # somebody has said stop; before that, it would start the cluster
    with pytest.raises(ValueError, match="takes a Job, got dict"):
        cluster.train({})  # type: ignore[arg-type]
    with pytest.raises(ClusterGone, match="no cluster 'never' is up"):
        Cluster.attach("never")


def test_status_reads_well() -> None:
    status = ClusterStatus(
        "lab", 2, "mpi", "damaged", "Open MPI 5", [RankStatus(0, "<h>", 7, "CPU"), RankStatus(1, state="missing")], "rank 1 is missing"
    )
    assert str(status).splitlines()[0] == "cluster 'lab': damaged, 2 ranks, launcher mpi, Open MPI 5"
    assert "&lt;h&gt;" in status._repr_html_()
    assert status.missing == [1]


@pytest.mark.parametrize(
    ("log", "cure"),
    [
        ("ModuleNotFoundError: No module named 'torch'", "misses a package"),
        ("mpirun has detected an attempt to run as root.", "refuses to run as root"),
        ("There are not enough slots available in the system", "fewer slots"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
    ],
)
def test_the_log_and_the_likely_cure_are_shown(log: str, cure: str) -> None:
    told = explain("0 of 2 came up", log, MpiProfile("openmpi", "Open MPI 5", "/x/mpiexec"))
    assert cure in told
    assert log in told
    assert "/x/mpiexec" in told
    assert "log is empty" in explain("0 of 2 came up", " \n", MpiProfile("openmpi", "Open MPI 5", "/x/mpiexec"))


def test_the_registry_survives_a_torn_file() -> None:
    record = registry.Record("torn", 3, "mpi", [0, 1], mpi="Open MPI 5", network=Network(latency=1e-3))
    registry.write(record)
    assert registry.read("torn") == record
    assert record.describe() == "ranks=3, devices=[0, 1], launcher='mpi'"
    path = profile_dir() / "security" / "workbench-torn.json"
    path.write_text(json.dumps({"name": "torn"})[:-3])
    assert registry.read("torn") is None
    registry.forget("torn")
    registry.forget("torn")
    assert not path.exists()


def test_a_run_knows_what_it_ran_on(tmp_path: Path) -> None:
    facts = cluster_facts("lab", "mpi", [{"rank": 0, "host": "h", "pid": 1, "device": "CPU", "transport": "host", "mpi": "Open MPI 5"}], tmp_path)
    assert facts["mpi"] == "Open MPI 5"
    assert facts["ranks"] == [{"rank": 0, "host": "h", "pid": 1, "device": "CPU", "transport": "host"}]
    assert "torch" in facts["packages"]
    assert facts["git"] is None
    assert git_commit(tmp_path / "nowhere") is None


def test_an_ipython_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("IPython.paths.get_ipython_dir", lambda: str(tmp_path / "file" / "ipython"))
    with pytest.raises(ClusterNotStarted, match=r"cannot be written .*; set IPYTHONDIR"):
        Cluster(2)
