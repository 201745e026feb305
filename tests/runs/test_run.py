from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.runs.fakes import FakeFeed, event, source_of, start_event, steps_of, validations_of, write_run
from workbench.errors import RankFailed, WorkbenchError
from workbench.job import Job
from workbench.runs.run import CHANGEABLE, Run
from workbench.store import write_json
from workbench.strategies import Elastic


def live(folder: Path, ranks: int = 2, count: int = 100) -> tuple[Run, FakeFeed]:
    write_json(folder / "job.json", Job(epochs=2).to_json())
    truth = {(source_of(rank), "steps"): steps_of(rank, count) for rank in range(ranks)}
    truth[source_of(0), "validation"] = validations_of(49, 99)
    feed = FakeFeed(truth)
    return Run(folder, feed), feed


def test_status_follows_the_events(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    assert run.status == "starting"
    for rank in range(2):
        feed.tell(start_event(rank, 2))
    assert run.status == "running"
    feed.tell(event(0, 1, "pause", 3, 2.0))
    feed.tell(event(1, 1, "pause", 3, 2.0))
    assert run.status == "paused"
    feed.tell(event(0, 2, "resume", 3, 3.0))
    assert run.status == "running"
    feed.tell(event(1, 2, "resume", 3, 3.0))
    assert run.status == "running"
    feed.tell(event(0, 3, "stop", 9, 4.0))
    assert run.status == "stopping"
    feed.end("stopped")
    assert run.wait(10) is run
    assert run.status == "stopped"
    assert run.error is None
    assert repr(run) == f"<Run {tmp_path.name}: stopped>"


def test_rows_alone_show_that_it_runs(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    feed.push(source_of(0), "steps", 0, 3)
    assert run.status == "running"
    run.close()


def test_commands_go_to_the_ranks(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    run.pause()
    run.resume()
    run.step(3)
    run.change(learning_rate=0.01, momentum=0)
    assert run.status == "starting"
    run.stop()
    assert run.status == "stopping"
    run.abort()
    assert feed.commands == [
        ("pause", {}),
        ("resume", {}),
        ("step", {"count": 3}),
        ("change", {"learning_rate": 0.01, "momentum": 0.0}),
        ("stop", {}),
        ("abort", {}),
    ]
    assert run.beacons()[0]["answered"]
    feed.end()
    run.wait(10)
    assert run.beacons() == {}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.change(), "change.. needs something to change: learning_rate, momentum, weight_decay"),
        (lambda run: run.change(learning_rat=1), "no option to change 'learning_rat'; did you mean 'learning_rate'"),
        (lambda run: run.change(strategy="gossip"), "no option to change 'strategy'"),
        (lambda run: run.change(learning_rate=-1), r"change\(learning_rate=-1\): learning_rate must be a number of at least 0, got -1"),
        (lambda run: run.change(learning_rate=float("nan")), "learning_rate must be a number of at least 0, got nan"),
        (lambda run: run.change(learning_rate=None), "learning_rate must be a number of at least 0, got None"),
        (lambda run: run.change(momentum=1.5), r"momentum must be a number in \[0, 1\], got 1.5"),
        (lambda run: run.change(learning_rate="fast"), "learning_rate must be a number of at least 0, got 'fast'"),
        (lambda run: run.step(0), r"step\(0\): count must be a whole number of at least 1, got 0"),
        (lambda run: run.step(1.5), "count must be a whole number"),
        (lambda run: run.step(True), "count must be a whole number"),
    ],
)
def test_wrong_commands_are_refused_at_once(tmp_path: Path, call, words: str) -> None:  # type: ignore[no-untyped-def]
    run, feed = live(tmp_path)
    with pytest.raises(ValueError, match=words):
        call(run)
    assert not feed.commands
    run.close()


def test_what_the_strategy_has_an_option_of_its_own_for_is_not_changed_in_vain(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", Job(strategy=Elastic(momentum=0.8)).to_json())
    feed = FakeFeed()
    run = Run(tmp_path, feed)
    words = r"change\(momentum=0.5\): momentum cannot be changed in this run, where that of Elastic\(momentum=0.8\).*: learning_rate, weight_decay$"
    with pytest.raises(ValueError, match=words):
        run.change(learning_rate=0.1, momentum=0.5)
    run.change(weight_decay=0.5)
    assert feed.commands == [("change", {"weight_decay": 0.5})]
    run.close()
    for strategy in ({"kind": "elastic", "momentum": "0.8?"}, {"kind": "spring"}, 7):  # of another version, or damaged
        write_json(tmp_path / "job.json", {"strategy": strategy})
        run = Run(tmp_path, feed)
        run.change(momentum=0.5)
        run.close()
    assert feed.commands[1:] == [("change", {"momentum": 0.5})] * 3


def test_what_can_be_changed_is_what_the_ranks_can_change() -> None:
    from workbench.training import control

    assert control.CHANGEABLE == CHANGEABLE


def test_a_run_that_is_over_cannot_be_steered_but_stopped(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    feed.end("done")
    run.stop()
    for command in (run.pause, run.resume, run.step, lambda: run.change(learning_rate=1)):
        with pytest.raises(WorkbenchError, match="it is over"):
            command()
    run.wait(10)
    run.abort()
    assert not feed.commands


def test_a_stop_that_comes_too_late_is_no_error(tmp_path: Path) -> None:
    run, feed = live(tmp_path)

    def command(verb: str, options: object) -> int:
        feed.end("done")
        raise WorkbenchError("nobody is there")

    feed.command = command  # type: ignore[method-assign]
    run.stop()
    assert run.wait(10).status == "done"


def test_waiting_ends_with_the_run_and_raises_what_failed(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    error = {"rank": 1, "host": "node", "device": "cpu", "step": 7, "where": "Diverged: the loss is nan", "traceback": "Traceback ..."}
    threading.Timer(0.2, feed.end, ("failed", error)).start()
    with pytest.raises(RankFailed, match=r"rank 1 on node .cpu. failed at step 7: Diverged: the loss is nan\nTraceback") as raised:
        run.wait(10)
    assert raised.value.rank == 1
    assert run.status == "failed"
    assert run.error == error


def test_a_failure_of_nobody_in_particular(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    feed.end("failed", {"rank": -1, "where": "the connection was closed"})
    with pytest.raises(WorkbenchError, match="failed: the connection was closed"):
        run.wait(10)


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    run, _ = live(tmp_path)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"is still starting after 0\.3 s; it goes on"):
        run.wait(0.3)
    assert 0.25 < time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        run.wait(0)
    run.close()
    with pytest.raises(WorkbenchError, match="not followed any more"):
        run.wait()


def test_an_interrupt_ends_the_waiting_and_not_the_run(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.runs.fakes import FakeFeed
from workbench.runs.run import Run
feed = FakeFeed()
run = Run(Path(sys.argv[1]), feed)
print("waiting", flush=True)
try:
    run.wait()
except KeyboardInterrupt:
    print("interrupted", run.status, feed.commands, flush=True)
feed.end()
print(run.wait(10).status)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted starting []\ndone\n"


def test_observers_hear_of_rows_events_and_the_end(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    told: list[str] = []
    others: list[str] = []
    run.observe(told.append)
    stop = run.observe(others.append)
    feed.push(source_of(0), "steps", 0, 3)
    feed.tell(start_event(0, 2))
    stop()
    feed.end()
    run.wait(10)
    assert told[:2] == ["rows", "events"]
    deadline = time.monotonic() + 5
    while told[-1] != "status" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told[-1] == "status"
    assert others == ["rows", "events"]


def test_progress_tells_of_the_last_seconds(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    empty = run.progress()
    assert (empty["step"], empty["loss"], empty["fraction"]) == (0, None, 0.0)
    assert str(empty) == "starting"
    for rank in range(2):
        feed.tell(start_event(rank, 2))
        feed.push(source_of(rank), "steps", 0, 75)
    feed.push(source_of(0), "validation", 0, 1)
    progress = run.progress()
    assert (progress["step"], progress["steps"], progress["epoch"], progress["epochs"]) == (75, 100, 2, 2)
    assert progress["fraction"] == 0.75
    assert progress["seconds"] == pytest.approx(1 + 75 * 0.05)
    assert progress["samples_per_second"] == pytest.approx(2 * 32 / 0.05, rel=1e-4)
    assert progress["exchange_share"] == pytest.approx(0.0265 / 0.05, rel=1e-4)
    assert progress["loss"] == pytest.approx(2 / 75 + 0.005)
    words = str(progress)
    assert words == "running · step 75 of 100 · epoch 2 of 2 · loss 0.03167 · 1,280 samples/s · exchanging 53.0 % of the time · accuracy 50.0 %"
    run.close()


def test_frames_have_a_row_per_worker_and_step(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    for rank in (1, 0):
        feed.push(source_of(rank), "steps", 0, 40)
    frame = run.frame()
    assert frame["step"].tolist() == [step for step in range(40) for _ in range(2)]
    assert frame["rank"].tolist() == [0, 1] * 40
    assert "sketch" not in frame
    assert len(run.validation()) == 0
    feed.push(source_of(0), "validation", 0, 2)
    assert run.validation()["accuracy"].between(0, 1).all()
    assert run.validation()["rank"].tolist() == [-1, -1]
    feed.tell(start_event(0, 2))
    feed.tell(event(0, 1, "change", 5, 2.0, learning_rate=0.01))
    events = run.events()
    assert events["kind"].tolist() == ["start", "change"]
    assert events["learning_rate"].tolist() == [None, 0.01]
    run.close()


def test_empty_frames_have_their_columns(tmp_path: Path) -> None:
    run, _ = live(tmp_path)
    assert list(run.events().columns) == ["seconds", "kind", "rank", "step"]
    assert "loss" in run.frame()
    assert "accuracy" in run.validation()
    assert len(run.waiting()) == len(run.drift()) == 0
    summary = run.summary()
    assert summary["accuracy"] is None
    assert summary["samples"] == 0
    run.close()


def test_since_gives_each_view_what_is_new_to_it(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    feed.push(source_of(0), "steps", 0, 10)
    first = run.since()
    assert len(first.rows["steps"]) == 10
    feed.push(source_of(0), "steps", 10, 5)
    feed.tell(start_event(0, 2))
    second = run.since(first.marker)
    assert second.rows["steps"]["step"].tolist() == list(range(10, 15))
    assert [event["kind"] for event in second.events] == ["start"]
    late = run.since()
    assert (len(late.rows["steps"]), late.marker) == (15, second.marker)
    assert not run.since(second.marker).rows
    run.close()


def test_two_handles_see_the_same(tmp_path: Path) -> None:
    run, feed = live(tmp_path)
    feed.push(source_of(0), "steps", 0, 60)
    feed.push(source_of(1), "steps", 0, 60)
    other = Run(tmp_path, feed)
    feed.push(source_of(0), "steps", 60, 40)
    feed.push(source_of(1), "steps", 60, 40)
    feed.end()
    assert run.wait(10).frame().equals(other.wait(10).frame())
    assert len(other.frame()) == 200


def test_a_feed_that_breaks_ends_the_run_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, feed = live(tmp_path)

    def broken() -> None:
        raise KeyError("oops")

    feed.finished = broken  # type: ignore[method-assign]
    deadline = time.monotonic() + 5
    while run._records.ended is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run._records.ended is not None
    assert "could not be followed any more" in run._records.ended["error"]["where"]
    assert "oops" in caplog.text


def test_a_model_that_was_not_kept_says_so(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run"))
    with pytest.raises(ValueError, match="no checkpoint 'final'"):
        run.model()


def test_importing_a_run_brings_no_torch_and_no_jupyter() -> None:
    heavy = ("torch", "mpi4py", "IPython", "ipyparallel", "ipykernel")
    script = f"import sys, workbench.runs.run, workbench.runs.compare; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
