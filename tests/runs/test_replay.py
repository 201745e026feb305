"""A finished run is told again: all rows once, in order, at its own pace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.errors import WorkbenchError
from workbench.job import Job
from workbench.runs.replay import replay
from workbench.runs.run import Run
from workbench.store import read_table, write_json
from workbench.training.control import Inbox
from workbench.training.journal import Flusher, Journal


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from workbench.cluster.charges import Charges, Costs
    from workbench.training.rank import Place, run_rank

    folder, job = tmp_path_factory.mktemp("recorded"), Job(steps=40, batch_size=8)
    write_json(folder / "job.json", job.to_json())
    journal = Journal("world.0", folder)
    flusher = Flusher(journal)

    def body(comm: Communicator) -> dict[str, Any]:
        place = Place(torch.device("cpu"), charge=Charges(comm, Costs(0.02, 0.0)))
        return run_rank(job, comm, journal, Inbox(), folder, place)

    VirtualWorld(4, Network()).run(body)
    flusher.close()
    return folder


def test_it_takes_the_time_it_took(recorded: Path) -> None:
    length = 40 * 0.02
    feed = replay(recorded)
    came: list[tuple[float, int]] = []
    feed.subscribe(lambda source, table, first, rows: came.append((time.monotonic(), len(rows))) if table == "steps" else None)
    began = time.monotonic()
    assert feed.start().wait(20)
    assert length <= time.monotonic() - began < length + 3
    assert len(came) > 8
    assert sum(count for _, count in came) == 160


def test_a_run_of_a_replay_is_the_run_again(recorded: Path) -> None:
    run = replay(recorded, pace=8).run()
    assert run.folder != recorded
    run.wait(20)
    assert run.status == "done"
    for table in ("steps", "spans", "traffic", "validation"):
        assert run.table(table).tobytes() == read_table(recorded, table).tobytes()
    assert len(run.events()) == len(Run.open(recorded).events())


def test_it_can_be_paused_and_cut_but_not_changed(recorded: Path) -> None:
    feed = replay(recorded, pace=0.5)
    run = feed.run()
    while not len(run.rows("steps")):
        time.sleep(0.01)
    run.pause()
    time.sleep(0.15)
    held = feed.seconds
    time.sleep(0.15)
    assert feed.seconds == held
    assert {beacon["state"] for beacon in run.beacons().values()} == {"paused"}
    with pytest.raises(WorkbenchError, match="it is a replay"):
        run.change(learning_rate=0.5)
    run.resume()
    run.stop()
    run.wait(10)
    assert run.status == "stopped"
    assert len(run.rows("steps")) < 160


def test_what_is_no_run_is_refused(tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no job\.json"):
        replay(tmp_path)
    with pytest.raises(ValueError, match="pace must be a number above 0, got 0"):
        replay(recorded, pace=0)
