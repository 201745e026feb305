"""Whole runs of ranks, on virtual ranks in this process: the loop, the shards, the answer, the records."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.cluster.charges import Charges, Costs
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.errors import Diverged, RunFolderDamaged
from workbench.job import CHANGEABLE, Job
from workbench.store import Rows, read_events, read_table, write_json
from workbench.strategies import Gossip, Synchronous
from workbench.telemetry import PHASES
from workbench.training.checkpoint import load_model, load_state, save_model
from workbench.training.control import Inbox
from workbench.training.journal import Flusher, Journal
from workbench.training.rank import Place, run_rank


def run(folder: Path, job: Job, size: int, inbox: Inbox | None = None) -> list[dict]:
    write_json(folder / "job.json", job.to_json())
    journal = Journal("world.0", folder)
    flusher = Flusher(journal)
    inbox = inbox or Inbox()

    def body(comm: Communicator) -> dict:
        place = Place(torch.device("cpu"), charge=Charges(comm, Costs(1e-3, 0.0)))
        return run_rank(job, comm, journal, inbox, folder, place)

    try:
        return VirtualWorld(size, Network()).run(body)
    finally:
        flusher.close()


def final(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in load_state(folder).values()])


def steps_of(folder: Path, rank: int = 0) -> Rows:
    steps = read_table(folder, "steps")
    return steps[steps["rank"] == rank]


@pytest.mark.parametrize("workers", [2, 4])
def test_n_workers_with_batch_b_are_one_with_batch_n_times_b(tmp_path: Path, workers: int) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    run(one, Job(epochs=2, batch_size=8 * workers), 1)
    run(many, Job(epochs=2, batch_size=8), workers)
    torch.testing.assert_close(final(one), final(many), rtol=1e-4, atol=1e-5)
    losses = read_table(many, "steps")
    at_first = losses[losses["step"] == 0]["loss"].mean()
    assert at_first == pytest.approx(steps_of(one)["loss"][0], rel=1e-5)


@pytest.mark.parametrize("strategy", [Synchronous(), Synchronous(average="parameters", every=3), Gossip()], ids=str)
def test_the_same_seed_gives_the_same_run(tmp_path: Path, strategy: object) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        run(folder, Job(steps=12, strategy=strategy, seed=seed), 3)
    a, b, c = map(final, folders)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert np.array_equal(steps_of(folders[0], 2)["loss"], steps_of(folders[1], 2)["loss"])


@pytest.mark.parametrize("strategy", [Synchronous(), Synchronous(average="parameters", every=4), Gossip()], ids=str)
def test_the_digits_are_learned(tmp_path: Path, strategy: object) -> None:
    out = run(tmp_path, Job(epochs=8, batch_size=16, strategy=strategy), 4)
    assert [result["status"] for result in out] == ["done"] * 4
    validation = read_table(tmp_path, "validation")
    assert validation["rank"][-1] == -1
    assert validation["samples"][-1] == 360
    assert validation["accuracy"][-1] >= 0.93
    module = load_model(tmp_path)
    assert sum(p.numel() for p in module.parameters()) == 4810


def test_records_add_up(tmp_path: Path) -> None:
    run(tmp_path, Job(epochs=1, batch_size=32), 2)
    for rank in (0, 1):
        rows = steps_of(tmp_path, rank)
        assert list(rows["step"]) == list(range(22))
        wall = np.diff(rows["start_seconds"])
        phases = sum(rows[f"{phase}_seconds"].astype(float) for phase in PHASES)[:-1]
        np.testing.assert_allclose(phases, wall, rtol=1e-4)
        assert rows["bytes_sent"][1:].min() >= 4 * 4810  # a ring of two sends the buffer once
        assert np.isfinite(rows["sketch"][[0, 20]]).all()
        assert np.isnan(rows["sketch"][1:20]).all()
        assert np.isfinite(rows["gradient_norm"][20])
    spans, traffic = read_table(tmp_path, "spans"), read_table(tmp_path, "traffic")
    assert set(spans["kind"]) == {"exchange", "load", "compute", "update"}
    assert (spans["end_seconds"] >= spans["start_seconds"]).all()
    assert traffic["bytes"].sum() == read_table(tmp_path, "steps")["bytes_sent"].sum()
    events = read_events(tmp_path)
    start = next(event for event in events if event["kind"] == "start")
    assert start["parameters"] == 4810
    assert start["dropped_samples"] == 1437 - 22 * 64
    assert sum(event["kind"] == "end" for event in events) == 2


@pytest.mark.parametrize(
    ("strategy", "every"),
    [(Synchronous(), 1), (Synchronous(collective="halving-doubling"), 1), (Synchronous(average="parameters", every=5), 5)],
    ids=str,
)
def test_the_bytes_of_a_step_are_those_of_its_exchange_alone(tmp_path: Path, strategy: Synchronous, every: int) -> None:
    """Neither the start, nor steering, nor validation between epochs is counted as the strategy's."""
    run(tmp_path, Job(epochs=3, batch_size=60, strategy=strategy), 4)
    steps, traffic = read_table(tmp_path, "steps"), read_table(tmp_path, "traffic")
    for step in np.unique(steps["step"]):
        sent = steps["bytes_sent"][steps["step"] == step].sum()
        assert sent == (strategy.collective.bytes_sent(4 * 4810, 4) if (step + 1) % every == 0 else 0), f"step {step}"
    assert traffic["bytes"].sum() == steps["bytes_sent"].sum() == steps["bytes_received"].sum()


@pytest.mark.parametrize("name", CHANGEABLE)
def test_what_can_be_changed_changes_the_run(tmp_path: Path, name: str) -> None:
    ends = []
    for value in (0.0, 0.05):
        folder = tmp_path / str(value)
        folder.mkdir()
        inbox = Inbox()
        inbox.put(1, "change", {name: value})
        run(folder, Job(steps=6, momentum=0.0, learning_rate=0.01), 2, inbox)
        ends.append(final(folder))
    assert not torch.equal(*ends)


def test_an_error_names_the_user_s_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tmp_path, Job(steps=5, model=f"{__name__}:Wrong"), 2)
    error = next(event for event in read_events(tmp_path) if event["kind"] == "error")
    assert error["where"].startswith("test_rank.py:")
    assert error["where"].endswith("in forward")


def by_rank(size: int) -> int:
    """Another number on each virtual rank: their threads differ."""
    return size + threading.get_ident() % 1000


class OtherSizes(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, by_rank(20)), torch.nn.LazyLinear(10))
        self(torch.zeros(1, 64))


class OtherStart(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        with torch.no_grad():
            self[1].bias.fill_(by_rank(0) / 1e4)


def counting(model: torch.nn.Module, batch: tuple) -> tuple:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), {"accuracy": 17.0}


def bare(model: torch.nn.Module, batch: tuple) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_ranks_that_would_not_train_the_same_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the number of trainable parameters is \d+ on one rank and \d+ on another"):
        run(tmp_path, Job(steps=2, model=f"{__name__}:OtherSizes"), 3)


def test_workers_begin_with_the_parameters_of_worker_0(tmp_path: Path) -> None:
    run(tmp_path, Job(steps=1, learning_rate=0.0, model=f"{__name__}:OtherStart"), 3)
    warnings = [event for event in read_events(tmp_path) if event["kind"] == "warning"]
    assert warnings
    assert 0 not in {event["rank"] for event in warnings}
    sketches = read_table(tmp_path, "steps")["sketch"]
    assert np.array_equal(sketches[0], sketches[1])


@pytest.mark.parametrize(("loss", "words"), [("counting", "accuracy as a fraction from 0 to 1, got 17"), ("bare", r"must return \(loss, metrics\)")])
def test_a_loss_is_held_to_its_contract(tmp_path: Path, loss: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path, Job(steps=2, loss=f"{__name__}:{loss}"), 1)


def test_a_folder_that_was_deleted_is_not_half_brought_back(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(FileNotFoundError):
        save_model(gone, "final", torch.nn.Linear(1, 1), 0)
    assert not gone.exists()


class Wrong(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(63, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs.flatten(1))


def test_batch_norm_statistics_are_part_of_the_answer(tmp_path: Path) -> None:
    run(tmp_path, Job(model="resnet20", model_options={"width": 4}, steps=4, batch_size=16), 2)
    state = load_state(tmp_path)
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    assert means
    assert all(bool(tensor.abs().sum() > 0) for tensor in means)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_records(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the loss of rank \d is (nan|inf) at step \d+; a smaller learning_rate than 1e\+30 may help"):
        run(tmp_path, Job(steps=50, learning_rate=1e30), 2)
    assert len(read_table(tmp_path, "steps")) > 0
    error = next(event for event in read_events(tmp_path) if event["kind"] == "error")
    assert error["error"] == "Diverged"
    assert "loop.py" in error["where"]


def test_a_command_is_applied_at_the_same_step_everywhere(tmp_path: Path) -> None:
    inbox = Inbox()
    inbox.put(1, "change", {"learning_rate": 0.01})
    inbox.put(2, "step", {"count": 5})
    inbox.put(3, "resume")
    inbox.put(4, "stop")
    out = run(tmp_path, Job(steps=500), 4, inbox)
    assert {result["status"] for result in out} == {"stopped"}
    changes = [event for event in read_events(tmp_path) if event["kind"] == "change"]
    assert len(changes) == 4
    assert len({event["step"] for event in changes}) == 1
    assert len({result["steps"] for result in out}) == 1
    assert load_state(tmp_path)  # a stopped run has its model too


def test_a_damaged_checkpoint_is_found(tmp_path: Path) -> None:
    run(tmp_path, Job(steps=2), 1)
    described = json.loads((tmp_path / "checkpoints" / "final.json").read_text())
    path = tmp_path / "checkpoints" / described["file"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderDamaged, match="SHA-256 differs"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="has no checkpoint 'centre'; there are: final"):
        load_model(tmp_path, "centre")
