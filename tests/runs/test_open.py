from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.fakes import event, source_of, start_event, steps_of, validations_of, write_run
from workbench.errors import RankFailed, RunFolderDamaged, WorkbenchError
from workbench.job import Job
from workbench.runs.ending import QUIET_SECONDS, ending_of, is_paused
from workbench.runs.replay import replay
from workbench.runs.run import Run
from workbench.store import RunLog, write_json


def until(what: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def age(folder: Path, seconds: float) -> None:
    """As if nothing had been written for so long."""
    then = time.time() - seconds
    for path in folder.iterdir():
        os.utime(path, (then, then))


@pytest.mark.parametrize("status", ["done", "stopped"])
def test_a_run_that_is_over(tmp_path: Path, status: str) -> None:
    run = Run.open(write_run(tmp_path / "run", ranks=3, steps=100, status=status))
    assert run.status == status
    assert run.wait() is run
    assert len(run.frame()) == len(run.rows()) == 300
    assert run.since().marker == run.since().marker > 0
    assert run.progress()["step"] == 100
    assert run.job["model"] == "mlp"
    run.stop()
    with pytest.raises(WorkbenchError, match="cannot pause run: it is over"):
        run.pause()


def test_a_failure_is_told_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    error = {"rank": 2, "host": "node", "device": "cuda:0", "step": 5, "where": "ValueError: x (model.py:3 in forward)", "traceback": ""}
    write_json(folder / "status.json", {"status": "failed", "steps": 5, "error": error})
    with pytest.raises(RankFailed, match=r"rank 2 on node .cuda:0. failed at step 5: ValueError: x"):
        Run.open(folder).wait()


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a run: it has no job"):
        Run.open(tmp_path)
    with pytest.raises(ValueError, match="not the folder of a run: there is no such folder"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not the folder of a run: it is a file"):
        Run.open(tmp_path / "file")


def test_where_runs_are_is_said(tmp_path: Path) -> None:
    for number in range(5):
        write_run(tmp_path / f"run-{number}", ranks=1, steps=2)
    for wrong in (tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match=r"but runs are in it: \S+/run-4, \S+/run-3, \S+/run-2 and 2 more$"):
            Run.open(wrong)
    with pytest.raises(ValueError, match="but runs are in it"):
        replay(tmp_path)


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / f"{source_of(1)}.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run = Run.open(folder)
    with pytest.raises(RunFolderDamaged, match=r"rank-00001\.0\.arrow is damaged in batch \d"):
        run.frame()


@pytest.mark.parametrize("told", ["", "{", "[]", "null", '{"status": 5}', '{"status": "done", "steps": "abc"}', '{"status": "failed", "error": 5}'])
def test_a_damaged_status_counts_as_missing(tmp_path: Path, told: str) -> None:
    folder = write_run(tmp_path / "run", ranks=1, steps=10)
    (folder / "status.json").write_text(told)
    assert Run.open(folder).status == "done"  # as its events say
    damage: list[str] = []
    assert ending_of(folder, [], time.time(), damage) is None
    assert ending_of(folder, [], time.time(), damage) is None
    assert len(damage) == 1
    assert "status.json" in damage[0]


@pytest.mark.parametrize("job", ["", "null", "[]", '{"strategy": 5}', '{"steps": "y"}', "[" * 100_000])
def test_a_damaged_job_is_named(tmp_path: Path, job: str) -> None:
    folder = write_run(tmp_path / "run", ranks=1, steps=10)
    (folder / "job.json").write_text(job)
    run = Run.open(folder)
    assert len(run.frame()) == 10
    for _ in range(2):
        with pytest.raises(RunFolderDamaged, match=r"job\.json is"):
            run.summary()


def test_a_folder_in_the_place_of_a_stream_is_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1, steps=10)
    (folder / f"{source_of(5)}.arrow").mkdir()
    with pytest.raises(RunFolderDamaged, match="it is a folder"):
        Run.open(folder).frame()


def test_a_torn_tail_costs_only_its_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=2, steps=100)
    path = folder / f"{source_of(1)}.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    run = Run.open(folder)
    with pytest.warns(UserWarning, match=r"run is damaged: .*rank-00001\.0\.arrow: batch 11 is cut off"):
        frame = run.frame()
    assert frame["rank"].value_counts().to_dict() == {0: 100, 1: 99}
    summary = run.summary()  # and no second warning
    assert summary["lost_rows"] == 1
    assert "batch 11 is cut off" in summary["damage"]
    assert len(run.damage) == 1


def test_damage_is_told_of_a_run_that_was_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1, steps=100, status=None, end=False)
    path = folder / f"{source_of(0)}.arrow"
    path.write_bytes(path.read_bytes()[:-3])
    run = Run.open(folder)
    assert run.damage == []  # it may be just being written
    with (folder / "events.jsonl").open("a") as file:
        file.write('5\n{"kind": "end", "rank": 0, "step": 100, "status": "done"}\n')
    assert run.wait(10).status == "done"
    with pytest.warns(UserWarning, match="is damaged"):
        assert run.summary()["lost_rows"] == 1
    assert len(run.damage) == 2


def test_the_events_tell_the_end_where_no_owner_did(tmp_path: Path) -> None:
    assert Run.open(write_run(tmp_path / "a", status=None)).status == "done"
    folder = write_run(tmp_path / "b", ranks=2, status=None, end=False)
    log = RunLog(folder, source_of(0))
    log.event(event(0, 1, "end", 50, 9.0, status="stopped"))
    log.event(event(1, 1, "end", 50, 9.0, status="stopped"))
    log.close()
    assert Run.open(folder).status == "stopped"


def test_the_error_of_the_rank_that_failed_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=3, status=None, end=False)
    log = RunLog(folder, source_of(0))
    log.event(event(0, 1, "error", 7, 3.0, error="PeerLost", message="rank 2 is lost", lost=2, where=""))
    assert ending_of(folder, [], time.time()) is None
    log.event(event(1, 1, "error", 7, 3.1, error="PeerLost", message="rank 2 is lost", lost=2, where=""))
    log.event(
        event(2, 1, "error", 6, 3.2, error="ZeroDivisionError", message="division by zero", where="mine.py:3 in forward", traceback="Traceback")
    )
    log.close()
    with pytest.raises(RankFailed, match=r"rank 2 on node .cpu. failed at step 6: ZeroDivisionError: division by zero .mine\.py:3 in forward."):
        Run.open(folder).wait()


def test_a_rank_that_was_killed_is_told_by_those_that_lost_it(tmp_path: Path) -> None:
    events = [start_event(rank, 3) for rank in range(3)]
    events += [event(rank, 1, "error", 7, 3.0, error="PeerLost", message="rank 2 is lost", lost=2, where="") for rank in range(2)]
    ended = ending_of(tmp_path, events, time.time())
    assert ended is not None
    assert ended["status"] == "failed"
    assert "rank 2 is lost" in ended["error"]["where"]


def test_a_rank_that_the_others_went_on_without_is_not_waited_for(tmp_path: Path) -> None:
    events = [start_event(rank, 3) for rank in range(3)] + [event(rank, 9, "end", 7, 3.0, status="done") for rank in range(2)]
    assert ending_of(tmp_path, events, time.time()) is None
    slow = {**event(2, 2, "fault", 0, 0.0, message="slow"), "source": source_of(2)}  # of itself
    assert ending_of(tmp_path, [*events, slow], time.time()) is None
    died = {**event(2, 8, "fault", 7, 3.0, message="its process died; the others went on"), "source": source_of(0)}
    assert ending_of(tmp_path, [*events, slow, died], time.time()) == {"status": "done", "steps": 7, "error": None}


def test_an_abort_ends_a_run_as_stopped(tmp_path: Path) -> None:
    events = [start_event(rank, 2) for rank in range(2)] + [event(rank, 1, "abort", 7, 3.0) for rank in range(2)]
    ended = ending_of(tmp_path, events, time.time())
    assert ended is not None
    assert ended["status"] == "stopped"


def test_a_run_that_nobody_ended_is_failed_once_it_is_quiet(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status=None, end=False)
    age(folder, QUIET_SECONDS + 10)
    run = Run.open(folder)
    assert run.status == "failed"
    with pytest.raises(WorkbenchError, match="nothing was recorded for 70 s, and nobody told how it ended"):
        run.wait()
    assert len(run.frame()) == 300


def test_a_pause_may_be_long(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1, status=None, end=False)
    log = RunLog(folder, source_of(0))
    log.event(event(0, 1, "pause", 7, 3.0))
    log.close()
    age(folder, 10 * QUIET_SECONDS)
    run = Run.open(folder)
    assert run.status == "paused"
    run.close()


def test_processes_that_are_gone_end_a_run_at_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status=None, end=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        time.sleep(0.1)
        (folder / "job.json").touch()
        ranks = [{"rank": 0, "host": socket.gethostname(), "pid": process.pid}]
        write_json(folder / "cluster.json", {"ranks": ranks})
        age_now = time.time()
        assert ending_of(folder, [], age_now - 10 * QUIET_SECONDS) is None
        process.communicate(b"\n")
    ended = ending_of(folder, [], age_now)
    assert ended is not None
    assert "processes are gone" in ended["error"]["where"]
    # the number now belongs to a process that is younger than the run
    ranks[0]["pid"] = os.getpid()
    write_json(folder / "cluster.json", {"ranks": ranks})
    os.utime(folder / "job.json", (1, 1))
    assert ending_of(folder, [], age_now) is not None
    ranks[0]["host"] = "another"
    write_json(folder / "cluster.json", {"ranks": ranks})
    assert ending_of(folder, [], age_now) is None


def test_engines_that_outlive_a_run_do_not_keep_it_going(tmp_path: Path) -> None:
    quiet = time.time() - 2 * QUIET_SECONDS
    ranks = {"ranks": [{"rank": 0, "host": socket.gethostname(), "pid": os.getpid()}]}
    folder, later = (write_run(tmp_path / name, ranks=1, status=None, end=False) for name in ("run", "later"))
    write_json(folder / "cluster.json", ranks)
    events = [start_event(rank, 2) for rank in range(2)]
    assert ending_of(folder, events, quiet) is None  # a long step
    error = event(0, 1, "error", 7, 3.0, error="OSError", message="no space left", where="")
    assert ending_of(folder, [*events, error], time.time()) is None  # rank 1 may have something to tell
    ended = ending_of(folder, [*events, error], quiet)
    assert ended is not None
    assert (ended["steps"], ended["error"]["where"]) == (7, "OSError: no space left")
    ended = ending_of(folder, [*events, event(0, 1, "end", 7, 3.0)], quiet)
    assert ended is not None
    assert "the others never told" in ended["error"]["where"]
    paused = [*events, event(0, 1, "end", 7, 3.0), event(1, 1, "pause", 7, 3.0)]
    assert ending_of(folder, paused, quiet) is None
    time.sleep(0.02)
    write_json(later / "cluster.json", ranks)
    assert ending_of(later, events, quiet) is None
    ended = ending_of(folder, paused, quiet)
    assert ended is not None
    assert "went on to another run" in ended["error"]["where"]


def test_following_a_run_of_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "job.json", Job().to_json())
    log = RunLog(folder, source_of(0))
    log.event(start_event(0, 1, 60))
    rows = steps_of(0, 60)
    log.append("steps", 0, rows[:20])
    run = Run.open(folder)
    assert run.status == "running"
    assert len(run.frame()) == 20
    with pytest.raises(WorkbenchError, match="cannot stop run: it was opened from its folder"):
        run.stop()
    assert run.status == "running"
    news = threading.Event()
    run.observe(lambda what: news.set())
    log.append("steps", 20, rows[20:40])
    assert news.wait(5)
    until(lambda: len(run.frame()) == 40)
    log.event(event(0, 1, "pause", 40, 3.0))
    until(lambda: run.status == "paused")
    log.append("steps", 40, rows[40:])
    log.append("validation", 0, validations_of(59))
    log.event(event(0, 2, "end", 60, 4.0, status="done"))
    log.close()
    write_json(folder / "status.json", {"status": "done", "steps": 60, "error": None})
    assert run.wait(10).status == "done"
    assert len(run.frame()) == 60
    assert len(run.validation()) == 1
    assert len(run.events()) == 3


def test_following_ends_when_asked_to(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status=None, end=False)
    before = threading.active_count()
    run = Run.open(folder)
    assert run.status == "running"
    assert run.beacons() == {}
    run.close()
    until(lambda: threading.active_count() == before)


def test_a_folder_that_breaks_while_it_is_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", status=None, end=False)
    run = Run.open(folder)
    (folder / f"{source_of(7)}.arrow").write_bytes(b"this is no stream of records")
    with pytest.raises(WorkbenchError, match=r"rank-00007\.0\.arrow is damaged"):
        run.wait(10)


def test_a_handle_without_a_feed_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run", status=None, end=False))
    with pytest.raises(WorkbenchError, match=r"Run\.open\(folder\) follows it"):
        run.wait()


def test_paused_is_said_by_the_ranks_that_are_left() -> None:
    pause, resume = ([event(rank, 1, kind, 3, 1.0) for rank in range(3)] for kind in ("pause", "resume"))
    assert not is_paused([])
    assert is_paused(pause)
    assert not is_paused(pause + resume[:1])
    assert is_paused(pause + resume + pause)
