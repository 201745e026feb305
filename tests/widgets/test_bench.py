"""The bench without a browser: it shows what the cluster and the run are, and only hands on commands."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
import numpy as np
import pytest
from bokeh.core.property.vectorization import Field

from workbench.errors import ClusterBusy, ClusterNotStarted
from workbench.job import Job
from workbench.strategies import ParameterServer
from workbench.telemetry import TRAFFIC, VALIDATION
from workbench_widgets import Bench
from workbench_widgets import showing as module

from .fakes import FakeCluster, FakeRun, steps


@pytest.fixture
def open_bench(monkeypatch: pytest.MonkeyPatch, say: Any) -> Iterator[Callable[..., Bench]]:
    """open_bench(cluster, job) -> a bench that is shown in a page and ticks fast."""
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "SURVEY", 0.05)
    monkeypatch.setattr(module, "REFRESH", 0.02)
    monkeypatch.setattr(module, "IDLE", 0.02)
    monkeypatch.setattr(module, "PERIODS", dict.fromkeys(module.PERIODS, 0.02))
    opened: list[Bench] = []

    def make(cluster: Any, job: Job | None = None) -> Bench:
        opened.append(Bench(cluster, job))
        say(opened[-1].run_panel.view, kind="hello", view="page", seq=0, visible=True)
        return opened[-1]

    yield make
    for bench in opened:
        bench.close()


def until(condition: Callable[[], Any], words: str = "", seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {words}"
        time.sleep(0.005)


def pressable(bench: Bench) -> set[str]:
    panel, card = bench.run_panel, bench.cluster_card
    buttons = [card.start_button, card.restart_button, card.stop_button, panel.train, panel.pause, panel.resume, panel.stop, panel.apply]
    return {button.description for button in buttons if not button.disabled}


def points(bench: Bench, plot: str = "loss") -> int:
    return int(np.isfinite(np.array(bench.run_panel.plots[plot].source.data["ys"])).sum())


def test_a_whole_session(open_bench: Any) -> None:
    cluster = FakeCluster()
    bench = open_bench(cluster, Job(steps=100))
    until(lambda: pressable(bench) == {"Start"}, "only Start makes sense")
    assert "start the cluster to begin" in bench.run_panel.status.value
    assert bench.run_panel.lights.value.count(">off<") == 2
    bench.cluster_card.start_button.click()
    until(lambda: pressable(bench) == {"Restart", "Shut down", "Train"}, "the cluster is up")
    assert "cpu 0, cpu 1 · Fake MPI 1.0" in bench.cluster_card._facts.value
    assert bench.run_panel.lights.value.count(">ready<") == 2
    bench.run_panel.train.click()
    until(lambda: pressable(bench) == {"Shut down", "Pause", "Stop", "Apply"}, "it trains")
    run = cluster.run
    assert run is not None
    assert Job.from_json(run.job) == Job(steps=100)
    run.record(steps(0, 10))
    until(lambda: points(bench) == 20, "20 losses are drawn")
    until(lambda: "10 / 100" in bench.run_panel.numbers.value, "the step is shown")
    assert 'aria-valuenow="10"' in bench.run_panel.numbers.value
    bench.run_panel.pause.click()
    until(lambda: pressable(bench) == {"Shut down", "Resume", "Stop", "Apply"}, "it is paused")
    bench.run_panel.resume.click()
    until(lambda: "Pause" in pressable(bench), "it goes on")
    bench.run_panel.rate.value = 0.02
    bench.run_panel.apply.click()
    until(lambda: "rate 0.02 from step 7 on" in bench.run_panel.status.value, "the change is seen")
    bench.run_panel.stop.click()
    until(lambda: pressable(bench) == {"Shut down", "Abort"}, "stopping can only be hurried")
    run.status = "stopped"
    until(lambda: pressable(bench) == {"Restart", "Shut down", "Train"}, "a new run can begin")
    assert run.told == [("pause", {}), ("resume", {}), ("change", {"learning_rate": 0.02}), ("stop", {})]
    assert "stopped after 10 steps" in bench.run_panel.status.value
    bench.cluster_card.stop_button.click()
    until(lambda: pressable(bench) == {"Start"}, "the cluster is down")


def test_a_callback_returns_at_once_and_says_what_goes_on(open_bench: Any) -> None:
    cluster = FakeCluster(gate=threading.Event())
    bench = open_bench(cluster)
    until(lambda: "Start" in pressable(bench))
    began = time.monotonic()
    bench.cluster_card.start_button.click()
    assert time.monotonic() - began < 0.5
    until(lambda: "starting 2 ranks …" in bench.run_panel.status.value, "progress in words")
    assert pressable(bench) == set()
    assert bench.run_panel.lights.value.count(">starting<") == 2
    cluster.gate.set()
    until(lambda: "ready: press Train" in bench.run_panel.status.value)


def test_what_fails_is_said_in_its_own_words_and_the_bench_goes_on(open_bench: Any) -> None:
    cluster = FakeCluster(trouble=ClusterNotStarted("no mpiexec: <install> it"), gate=threading.Event())
    bench = open_bench(cluster)
    bench.start()
    bench.train()
    cluster.gate.set()
    until(lambda: "no mpiexec: &lt;install&gt; it" in bench.run_panel.status.value, "the error is shown")
    assert 'role="alert"' in bench.run_panel.status.value
    assert not bench._commands.busy, "what was asked for after it is dropped"
    cluster.trouble = None
    bench.start()
    until(lambda: "ready: press Train" in bench.run_panel.status.value, "it works now")


def test_a_form_that_is_wrong_is_said_before_train(open_bench: Any) -> None:
    bench = open_bench(FakeCluster(up=True))
    until(lambda: "Train" in pressable(bench))
    field = bench.job_cards.form.fields["batch_size"]
    field.control.value = 0
    until(lambda: "Train" not in pressable(bench), "Train is off")
    assert field.error == "Job(batch_size=0): batch_size must be a whole number of at least 1, got 0"
    assert "Train is off until the form is right" in bench.run_panel.status.value
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        bench.train()
    field.control.value = 32
    until(lambda: "Train" in pressable(bench), "Train is on again")


def test_a_job_that_does_not_fit_the_ranks_is_said_before_train(open_bench: Any) -> None:
    bench = open_bench(FakeCluster(up=True, ranks=8))
    form = bench.job_cards.form
    form.fields["batch_size"].control.value = 500
    until(lambda: "Train" not in pressable(bench) and form.check(), "Train is off")
    assert "500" in form.check()


def test_a_rate_that_is_no_rate_is_refused_in_words(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    bench.train()
    until(lambda: "Apply" in pressable(bench))
    bench.change(momentum=0.5)
    until(lambda: "has no such option to change" in bench.run_panel.status.value)


def test_two_benches_on_one_cluster_agree(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    first = open_bench(cluster)
    first.train()
    until(lambda: cluster.run is not None)
    cluster.run.record(steps(0, 5))
    until(lambda: points(first) == 10)
    second = open_bench(cluster)
    until(lambda: second.run is cluster.run and points(second) == 10, "the second has the history")
    cluster.run.record(steps(5, 5))
    until(lambda: points(first) == points(second) == 20, "both go on")
    until(lambda: pressable(first) == pressable(second) == {"Shut down", "Pause", "Stop", "Apply"})
    second.pause()
    until(lambda: "Resume" in pressable(first), "the first sees the pause")
    with pytest.raises(ClusterBusy):
        cluster.train(Job())
    assert first.run_panel.view is not second.run_panel.view
    assert first.run_panel.numbers.value == second.run_panel.numbers.value


def test_a_run_that_python_started_is_shown_and_the_next_one_begins_with_empty_plots(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    cluster.train(Job(learning_rate=0.3)).record(steps(0, 5))
    until(lambda: points(bench) == 10)
    until(lambda: bench.run_panel.rate.value == 0.3, "the rate of the run is shown")
    cluster.run.status = "done"
    cluster.train(Job()).record(steps(0, 1))
    until(lambda: points(bench) == 2, "the plots are those of the new run")


def test_plots_are_one_message_per_tick(open_bench: Any, listen: Any, say: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    view = bench.run_panel.view
    run = cluster.train(Job())
    until(lambda: bench._showing.reading is not None)
    bench._publisher.close()
    sent = listen(view)
    for tick in range(5):
        for part in range(10):
            run.record(steps(10 * tick + part, 1))
        bench._showing.tick()
    assert [(message["kind"]) for message in sent.custom()] == ["patch"] * 5
    assert len(sent) == 5
    for _ in range(5):
        bench._showing.tick()
    assert len(sent) == 5, "nothing new is nothing sent"


def test_nothing_is_drawn_while_nobody_looks_and_everything_for_who_comes(open_bench: Any, say: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    say(bench.run_panel.view, kind="bye", view="page")
    cluster.train(Job()).record(steps(0, 5))
    until(lambda: "5" in bench.run_panel.numbers.value, "the numbers are kept")
    time.sleep(0.1)
    assert points(bench) == 0
    cluster.run.status = "done"
    say(bench.run_panel.view, kind="hello", view="another", seq=0, visible=True)
    until(lambda: points(bench) == 10, "the whole history is drawn")


def test_a_run_that_lost_its_memory_of_rows_in_between_is_drawn_anew(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    run = cluster.train(Job())
    run.record(steps(0, 5))
    until(lambda: points(bench) == 10)
    bench._publisher.close()
    run.cache._limit = 1
    for step in range(5, 9):
        run.record(steps(step, 1))
    bench._showing.tick()
    assert points(bench) == 2, "what is in memory, once"


def test_one_legend_names_the_ranks_for_all_plots(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    cluster.train(Job()).record(steps(0, 500))
    until(lambda: points(bench) > 200, "the thinned loss is drawn")
    bench._publisher.close()
    plots = bench.run_panel.plots
    named = {name: [isinstance(item.label, Field) for legend in plot.root.legend for item in legend.items] for name, plot in plots.items()}
    assert named == {"loss": [True, False], "throughput": [False], "phases": [False] * 4, "staleness": [], "drift": [], "traffic": []}


def test_validations_are_drawn(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    run = cluster.train(Job())
    run.record(steps(0, 5))
    run.cache.add("world.0", "validation", 0, np.array([(-1, 5, 0, 360, 0.5, 0.9, 1.0)], VALIDATION))
    until(lambda: "90.0 %" in bench.run_panel.numbers.value, "the accuracy is shown")
    until(lambda: bench.run_panel.plots["loss"].validation.data["step"] == [5], "and its point is drawn")


def test_lights_tell_what_a_rank_does(open_bench: Any) -> None:
    cluster = FakeCluster(up=True, ranks=6)
    bench = open_bench(cluster)
    run = cluster.train(Job())

    def beacon(state: str = "running", operation: str | None = None, since: float = 0.0, answered: bool = True) -> dict[str, Any]:
        return {"state": state, "operation": operation, "since_seconds": since, "step": 12, "answered": answered}

    run.states = {
        0: beacon(),
        1: beacon(operation="recv 0", since=2.5),
        2: beacon(answered=False),
        3: beacon("lost"),
        4: beacon("paused"),
        5: beacon("starting"),
    }
    until(lambda: "no answer" in bench.run_panel.lights.value)
    shown = bench.run_panel.lights.value
    for state in ("training", "waiting", "silent", "failed", "paused", "starting"):
        assert f"workbench-light workbench-{state}" in shown
    assert "rank 1: waiting, at step 12 in recv 0 for 2.5 s" in shown
    assert "rank 2: no answer, last heard of at step 12" in shown
    assert 'title="rank 0: training, at step 12"' in shown
    run.happen("fault", step=0, message="slowed 4x")
    until(lambda: 'title="rank 0: training, at step 12, slowed 4x"' in bench.run_panel.lights.value)


def test_a_server_is_shown_as_one_and_has_no_line_among_the_workers(open_bench: Any) -> None:
    cluster = FakeCluster(up=True, ranks=4)
    bench = open_bench(cluster)
    run = cluster.train(Job(strategy=ParameterServer(servers=1)))
    beacon = {"state": "running", "operation": "wait_any", "since_seconds": 9.0, "step": 123, "answered": True}
    run.states = dict.fromkeys(range(4), beacon)
    run.record(steps(0, 5, ranks=3))
    until(lambda: "server" in bench.run_panel.lights.value)
    until(lambda: points(bench) == 15)
    assert 'title="rank 3: server, 123 updates"' in bench.run_panel.lights.value
    assert "rank 2: waiting, at step 123 in wait_any for 9.0 s" in bench.run_panel.lights.value
    assert bench.run_panel.plots["loss"].source.data["label"] == ["rank 0", "rank 1", "rank 2"]
    run.status = "done"
    until(lambda: 'title="rank 3: server, done"' in bench.run_panel.lights.value)
    assert 'title="rank 2: done"' in bench.run_panel.lights.value


def test_who_talked_to_whom_is_drawn_as_it_comes(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    run = cluster.train(Job())
    run.record(steps(0, 5))
    run.cache.add("world.0", "traffic", 0, np.array([(0, 0, 1, 3_000_000, 2), (1, 0, 0, 1_000_000, 1)], TRAFFIC))

    def drawn() -> bool:  # the publisher's thread shows the plot, and draws
        plot = bench.run_panel.plots["traffic"]
        return plot.root.visible and np.array_equal(plot.source.data["megabytes"], [np.nan, 3, 1, np.nan], equal_nan=True)

    until(drawn)
    assert not bench.run_panel.plots["drift"].root.visible


def test_a_failed_run_says_who_and_where(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    run = cluster.train(Job())
    run.error = {"rank": 1, "host": "here", "device": "cpu 1", "step": 9, "where": "Diverged: the loss of rank 1 is nan"}
    run.status = "failed"
    until(lambda: "rank 1 (here, cpu 1) at step 9: Diverged: the loss of rank 1 is nan" in bench.run_panel.status.value)
    until(lambda: "workbench-light workbench-failed" in bench.run_panel.lights.value)
    assert "Train" in pressable(bench)


def test_waiting_keeps_the_loop_free(open_bench: Any) -> None:
    cluster = FakeCluster()
    bench = open_bench(cluster)

    async def session() -> tuple[Any, int]:
        bench.start()
        bench.train(Job(steps=5))
        waiting = asyncio.create_task(bench.wait())
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
            if turns == 20:
                assert cluster.run is not None
                cluster.run.status = "done"
        return waiting.result(), turns

    run, turns = asyncio.run(session())
    assert run is cluster.run is bench.run
    assert turns >= 20


def test_waiting_raises_what_went_wrong(open_bench: Any) -> None:
    bench = open_bench(FakeCluster(trouble=ClusterNotStarted("no mpiexec")))
    bench.start()
    with pytest.raises(ClusterNotStarted, match="no mpiexec"):
        asyncio.run(bench.wait())
    cluster = FakeCluster(up=True, run=FakeRun(Job().to_json(), status="failed", error={"rank": 0, "where": "x"}))
    other = open_bench(cluster)
    until(lambda: other.run is not None)
    with pytest.raises(Exception, match="the fake run failed"):
        asyncio.run(other.wait())


def test_a_tick_that_fails_is_shown(open_bench: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    until(lambda: "ready" in bench.run_panel.status.value)
    with caplog.at_level("CRITICAL", logger="workbench_widgets.publisher"):
        monkeypatch.setattr(bench._showing, "_ask", lambda *_: 1 / 0)
        until(lambda: "the panel could not be brought up to date: ZeroDivisionError: division by zero" in bench.run_panel.status.value)
        monkeypatch.undo()


def test_closing_ends_the_threads_and_leaves_the_run(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    bench.train()
    until(lambda: bench.run is not None)
    bench.close()
    bench.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("workbench-")], "its threads have ended")
    assert cluster.up
    assert cluster.run.status == "running"
    assert not bench.run_panel.view.comm


def test_where_no_kernel_runs_words_are_shown(open_bench: Any) -> None:
    cluster = FakeCluster(up=True)
    bench = open_bench(cluster)
    run = cluster.train(Job())
    run.record(steps(0, 5))
    until(lambda: bench._showing.reading is not None)
    bundle = bench._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "training mlp on digits, 1 epoch, batch 32, rate 0.1, synchronous" in bundle["text/html"]
    assert "step 5" in bundle["text/plain"]


def test_every_control_has_words_for_a_screen_reader(open_bench: Any) -> None:
    bench = open_bench(FakeCluster())
    controls = [widget for widget in _below(bench) if isinstance(widget, (ipywidgets.Button, ipywidgets.FloatText, ipywidgets.Dropdown))]
    assert len(controls) > 15
    for widget in controls:
        assert widget.description
        assert widget.tooltip


def _below(widget: Any) -> list[Any]:
    return [widget, *(below for child in getattr(widget, "children", ()) for below in _below(child))]
