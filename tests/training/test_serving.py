"""Whole runs with servers, on virtual ranks in this process: what the records say of the centre, and what becomes of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.test_rank import final, run
from workbench import data, models
from workbench.job import CHANGEABLE, Job
from workbench.store import Rows, read_events, read_table
from workbench.strategies import Elastic, ParameterServer, Strategy
from workbench.training.checkpoint import load_state
from workbench.training.control import Inbox

CENTRES: list[Strategy] = [
    ParameterServer(),
    ParameterServer(servers=2, every=3),
    ParameterServer(update="worker", every=4),
    ParameterServer(mode="sync"),
    ParameterServer(mode="stale", staleness=1),
    Elastic(every=2),
]


def served(folder: Path, server: int) -> Rows:
    """The rows of one server, in order."""
    rows = read_table(folder, "server")
    return rows[rows["rank"] == server]


@pytest.mark.parametrize("bound", range(5))
def test_a_straggler_holds_the_others_at_the_bound(tmp_path: Path, bound: int) -> None:
    """Worker 1 is ten times slower; the rows of the server tell that nobody was applied further ahead than that."""
    run(tmp_path, Job(steps=15, batch_size=4, strategy=ParameterServer(mode="stale", staleness=bound), slow={1: 10.0}), 5)
    rows, clocks, ahead = served(tmp_path, 4), np.zeros(4, int), []
    for row in rows:
        clocks[row["peer"]] += 1
        assert row["clock"] == clocks[row["peer"]]
        ahead.append(clocks[row["peer"]] - 1 - clocks.min())
    assert max(ahead) == bound
    assert clocks.tolist() == [15] * 4


@pytest.mark.parametrize("strategy", CENTRES, ids=str)
def test_a_lone_worker(tmp_path: Path, strategy: Strategy) -> None:
    """It has nobody to agree with, and its servers take part in no agreement of workers."""
    servers = strategy.roles(9).count("server")
    outcomes = run(tmp_path, Job(steps=7, strategy=strategy), 1 + servers)
    assert [(outcome["status"], outcome["steps"]) for outcome in outcomes] == [("done", 7)] * (1 + servers)
    assert final(tmp_path).isfinite().all()


AT_THE_40TH: list[Callable[[], None]] = []
"""Done by the loss below."""
CALLS: list[int] = []


def usual(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """The usual loss; at the 40th mini-batch of all ranks together something happens, whoever computes it."""
    CALLS.append(len(CALLS))
    if len(CALLS) == 40:
        AT_THE_40TH[-1]()
    logits = model(batch[0])
    return nn.functional.cross_entropy(logits, batch[1]), {"accuracy": float((logits.argmax(1) == batch[1]).float().mean())}


@pytest.mark.parametrize("strategy", CENTRES, ids=str)
def test_what_was_done_before_a_stop_is_in_the_centre_once(tmp_path: Path, strategy: Strategy) -> None:
    CALLS.clear()
    inbox = Inbox()
    AT_THE_40TH.append(lambda: inbox.put(1, "stop"))
    outcomes = run(tmp_path, Job(steps=1000, batch_size=4, loss=f"{__name__}:usual", strategy=strategy, slow={1: 2.5}), 5, inbox)
    roles, every = strategy.roles(5), strategy.period
    workers = roles.count("worker")
    done = {outcome["rank"]: outcome["steps"] for outcome in outcomes[:workers]}
    assert {outcome["status"] for outcome in outcomes} == {"stopped"}
    assert sum(done.values()) >= 39
    assert (len(set(done.values())) == 1) == strategy.lockstep
    for server in range(workers, 5):
        rows = served(tmp_path, server)
        for worker in range(workers):
            clocks = rows["clock"][rows["peer"] == worker]
            assert clocks.tolist() == list(range(1, -(-done[worker] // every) + 1))
    assert torch.equal(final(tmp_path), torch.cat([tensor.reshape(-1) for tensor in load_state(tmp_path, "centre").values()]))


def fail() -> None:
    raise KeyError("no such layer")


@pytest.mark.parametrize("strategy", [*CENTRES, Elastic(server=False, every=2)], ids=str)
def test_a_run_that_fails_leaves_the_centre_as_it_was_last_known(tmp_path: Path, strategy: Strategy) -> None:
    CALLS.clear()
    AT_THE_40TH.append(fail)
    with pytest.raises(KeyError, match="no such layer"):
        run(tmp_path, Job(steps=1000, batch_size=4, loss=f"{__name__}:usual", strategy=strategy), 5)
    centre = torch.cat([tensor.reshape(-1) for tensor in load_state(tmp_path, "centre").values()])
    assert centre.isfinite().all()
    start = models.build("mlp", {}, data.load("digits", {}, 0), 0).state_dict()
    assert not torch.equal(centre, torch.cat([tensor.reshape(-1) for tensor in start.values()])), "it has learned"
    assert not (tmp_path / "checkpoints" / "final.json").exists()
    kept = [event for event in read_events(tmp_path) if event["kind"] == "checkpoint"]
    assert len(kept) == 1, "one rank writes it"


@pytest.mark.parametrize("strategy", CENTRES, ids=str)
def test_the_same_seed_gives_the_same_records_and_the_same_centre(tmp_path: Path, strategy: Strategy) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        run(folder, Job(steps=12, strategy=strategy, seed=seed, slow={0: 1.7}), 5)
    for table in ("server", "steps", "validation"):
        one, two = (read_table(folder, table).tobytes() for folder in folders[:2])
        assert one == two
    a, b, c = map(final, folders)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("update", ["server", "worker"])
@pytest.mark.parametrize("name", CHANGEABLE)
def test_what_is_changed_reaches_the_optimizer_wherever_it_runs(tmp_path: Path, name: str, update: str) -> None:
    ends = []
    for value in (0.0, 0.05):
        folder = tmp_path / str(value)
        folder.mkdir()
        inbox = Inbox()
        inbox.put(1, "change", {name: value})
        run(folder, Job(steps=6, momentum=0.0, learning_rate=0.01, strategy=ParameterServer(update=update)), 3, inbox)
        changes = [event for event in read_events(folder) if event["kind"] == "change"]
        assert sorted(event["rank"] for event in changes) == [0, 1, 2], "the server too"
        ends.append(final(folder))
    assert not torch.equal(*ends)


@pytest.mark.parametrize("strategy", [ParameterServer(), Elastic()], ids=str)
def test_the_centre_is_validated_between_epochs_and_at_the_end(tmp_path: Path, strategy: Strategy) -> None:
    run(tmp_path, Job(epochs=3, batch_size=60, strategy=strategy), 4)
    rows = read_table(tmp_path, "validation")
    answers = rows[rows["rank"] == -1]
    assert answers["epoch"].tolist() == [0, 1, 2]
    assert set(answers["samples"]) == {360}
    assert sorted(rows["rank"]) == sorted([*range(3)] * 2 + [-1] * 3), "between epochs each worker its own model too"


def normed(classes: int) -> nn.Module:
    """A model that begins with batch norm of its input, so that its statistics are those of the data."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, classes))


@pytest.mark.parametrize("strategy", CENTRES, ids=str)
def test_the_batch_norm_statistics_of_the_centre_are_those_of_the_data(tmp_path: Path, strategy: Strategy) -> None:
    job = Job(model=f"{__name__}:normed", steps=120, batch_size=16, learning_rate=0.03, momentum=0.5, strategy=strategy)
    run(tmp_path, job, 5)
    state = load_state(tmp_path, "centre")
    train = data.load(job.data, job.data_options, job.seed).train
    inputs = torch.stack([train[index][0] for index in range(len(train))]).flatten(1)
    alive = inputs.std(0) > 0.1  # some pixels are the same in nearly all pictures
    assert alive.sum() > 50
    off = (state["1.running_mean"] - inputs.mean(0)).abs() / inputs.std(0)
    ratio = state["1.running_var"] / inputs.var(0)
    assert off[alive].max() < 0.3
    assert 0.8 < ratio[alive].median() < 1.25
    assert (state["3.running_var"] > 0).all()
    answers = read_table(tmp_path, "validation")
    assert answers[answers["rank"] == -1]["accuracy"][-1] >= 0.9
