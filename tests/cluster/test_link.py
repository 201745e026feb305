"""Runs of a real cluster over an emulated link."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workbench import Cluster, Job, Network
from workbench.cluster import choices, registry
from workbench.cluster.status import ClusterStatus
from workbench.runs.run import Run
from workbench.strategies import Gossip, Synchronous

pytestmark = pytest.mark.cluster

Over = Callable[[Network | str | None], Cluster]
WIDE = {"hidden": [256]}


@pytest.fixture
def over(cluster4: Cluster) -> Over:
    """The shared cluster, as a notebook has it that has attached to it and wants this network."""
    return lambda network: Cluster.attach(cluster4.name, cluster4.folder, network=network)


def facts(run: Run) -> dict[str, object]:
    told: dict[str, object] = json.loads((Path(run.folder) / "cluster.json").read_text())
    return told


@pytest.mark.parametrize("strategy", [Synchronous(), Synchronous(overlap=True, bucket_bytes=1 << 16), Gossip()], ids=["whole", "overlap", "gossip"])
def test_what_a_rank_sends_takes_its_time_on_the_link(over: Over, strategy: Synchronous | Gossip) -> None:
    with over("100M") as cluster:
        run = cluster.train(Job(model_options=WIDE, steps=10, strategy=strategy)).wait(60)
    assert facts(run)["network"] == {"latency": 100e-6, "bandwidth": 12.5e6}
    rows = run.rows("steps")
    assert len(rows) == 40
    for rank in range(4):
        mine = rows[rows["rank"] == rank]
        assert mine["bytes_sent"].sum() > 0
        if isinstance(strategy, Synchronous):  # never faster than the link; gossip does not wait for what it sends
            told = mine["exchange_seconds"] + mine["hidden_seconds"]  # with overlap, what training does for the exchange itself is in its compute
            assert np.all(told >= (0.95 if strategy.overlap else 1.0) * mine["bytes_sent"] / 12.5e6)


def test_the_network_belongs_to_the_run_and_not_to_the_ranks(over: Over) -> None:
    job = Job(model_options=WIDE, steps=3)
    slow, plain = over(Network(latency=1e-3, bandwidth=1e8)), over(None)
    with slow, plain:
        assert facts(slow.train(job).wait(60))["network"] == {"latency": 1e-3, "bandwidth": 1e8}
        assert facts(plain.train(job).wait(60))["network"] is None
        status = slow.status()
        assert str(status).splitlines()[0].endswith(", emulated link of 1000 us, 100 MB/s for the runs of this object alone")
        assert "emulated link of 1000 us" in status._repr_html_()
        assert "emulated" not in str(plain.status())


def test_whoever_attaches_has_the_network_that_the_cluster_was_started_with(cluster4: Cluster, over: Over) -> None:
    """As after a restart of the kernel: the record of the start says it."""
    started = registry.read(cluster4.name)
    assert started is not None
    registry.write(replace(started, network=Network.of("100M")))
    try:
        from_afar = Cluster(4, name=cluster4.name, devices="cpu")
        assert "emulated link of 100 us, 12.5 MB/s\n" in str(from_afar.status())
        with over(None) as same, over("1G") as other:
            run = same.train(Job(model_options=WIDE, steps=1)).wait(60)
            assert facts(run)["network"] == {"latency": 100e-6, "bandwidth": 12.5e6}
            assert str(same.status()).splitlines()[0].endswith(", emulated link of 100 us, 12.5 MB/s")
            assert str(other.status()).splitlines()[0].endswith(", emulated link of 50 us, 125 MB/s for the runs of this object alone")
            assert str(cluster4.status()).splitlines()[0].endswith(", real links for the runs of this object alone")
    finally:
        registry.write(started)


def test_an_abort_ends_a_message_that_is_long_under_way(over: Over) -> None:
    with over(Network(latency=0.0, bandwidth=100.0)) as cluster:
        run = cluster.train(Job(model_options=WIDE, steps=10**6))
        run.abort()
        run.wait(30)
        assert run.status == "stopped"


def test_it_says_what_this_machine_cannot_emulate(over: Over) -> None:
    with over(Network(latency=0.0, bandwidth=1e15)) as cluster:
        run = cluster.train(Job(model_options=WIDE, steps=100)).wait(60)
    words = [str(message) for message in run.events().query("kind == 'warning'")["message"]]
    assert any("not 2 times the 1e+09 MB/s of the link" in word for word in words)
    assert any("longer than they should" in word for word in words)


def test_several_hosts_have_no_clock_in_common() -> None:
    choices.check_hosts(None, ["a", "b"])
    choices.check_hosts(Network(), ["a", "a"])
    with pytest.raises(ValueError, match="needs all ranks on one host, whose clock they share; these are on a, b: choose network=None"):
        choices.check_hosts(Network(), ["b", "a", "b"])


def test_a_cluster_that_is_down_tells_its_link_too() -> None:
    assert "emulated link of 50 us, 125 MB/s" in str(Cluster(2, name="linked", network="1G").status())
    assert "emulated" not in str(ClusterStatus("a", 2, "mpi", "down"))
