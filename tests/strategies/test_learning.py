"""Every strategy of the table, and its other modes, on four real ranks: the digits are learned, and a run leaves what it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies.test_table import EVERY
from workbench import Cluster, Job

pytestmark = pytest.mark.cluster

OPTIONS: dict[str, dict[str, Any]] = {
    "parameter-server": {"momentum": 0.0},  # three workers that do not wait are a momentum of their own (Mitliagkas et al., 2016)
    "parameter-server, stale": {"learning_rate": 0.05},
    "parameter-server, 3 servers": {"learning_rate": 0.03},  # for the one worker that is left
}
"""Of jobs whose defaults do not suit a strategy."""


@pytest.mark.parametrize("name", EVERY)
def test_the_digits_are_learned(name: str, cluster4: Cluster) -> None:
    strategy = EVERY[name]
    job = Job(strategy=strategy, **{"epochs": 10, "batch_size": 16, "seed": 2, **OPTIONS.get(name, {})})
    run = cluster4.train(job).wait(60)
    assert run.status == "done"
    roles = strategy.roles(4)
    workers, servers = roles.count("worker"), roles.count("server")
    steps = run.frame()
    assert sorted(steps["rank"].unique()) == list(range(workers))
    assert steps.groupby("rank").size().nunique() == 1, "every worker has done its steps"
    answers = run.validation().query("rank == -1")
    assert answers["samples"].iloc[-1] == 360
    assert answers["accuracy"].iloc[-1] >= 0.95
    ends = run.events().query("kind == 'end'")
    assert sorted(ends["rank"]) == [0, 1, 2, 3]

    rows = run.table("server")
    assert set(rows["rank"]) == set(range(workers, 4))
    for server in range(workers, 4):
        of_this = rows[rows["rank"] == server]
        assert len(of_this)
        assert np.isin(np.diff(of_this["update"]), (0, 1)).all()
        for worker in range(workers):
            clocks = of_this["clock"][of_this["peer"] == worker]
            assert clocks.tolist() == list(range(1, len(clocks) + 1)), "applied once each, in order"
            assert len(clocks) == np.count_nonzero((rows["rank"] == workers) & (rows["peer"] == worker)), "by every server"
        assert (of_this["busy_seconds"] >= 0).all()
        assert (np.diff(of_this["seconds"]) >= 0).all()
    if servers and len(np.unique(rows["peer"])) > 1 and not strategy.lockstep:
        assert rows["staleness"].max() > 0
        assert steps["staleness"].max() > 0

    final = run.model().state_dict()
    if (run.folder / "checkpoints" / "centre.json").exists():
        centre = run.model("centre").state_dict()
        assert all(torch.equal(final[part], centre[part]) for part in final)
    else:
        assert not servers
    if not strategy.lockstep:
        for rank in range(workers):
            assert set(run.model(f"rank-{rank:05d}").state_dict()) == set(final)
