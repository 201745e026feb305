"""The bench in a real JupyterLab, with a real cluster of MPI ranks behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.cluster, pytest.mark.timeout(300)]

NAME = f"browser-{os.getpid()}"
CELL = f"""
from workbench import Cluster, Job
from workbench_widgets import Bench
cluster = Cluster(ranks=2, name="{NAME}", devices="cpu")
bench = Bench(cluster, Job(steps=40000, batch_size=16, learning_rate=0.02))
bench
"""
BLOCKED = 40
PLOTS = ("loss", "throughput", "phases")


@pytest.fixture
def no_cluster_stays(lab: Any) -> Iterator[None]:
    """Whatever a test leaves behind of its cluster is ended, also when the page or the kernel is gone."""
    yield
    stop = f"from workbench import Cluster; Cluster(name={NAME!r}).stop()"
    subprocess.run([sys.executable, "-c", stop], env=lab.environment, check=True, timeout=60)


def button(page: Any, name: str) -> Any:
    return page.locator(".workbench").first.get_by_role("button", name=name, exact=True)


def until_pressable(notebook: Any, *names: str, seconds: float = 30) -> None:
    notebook.until(lambda: all(button(notebook.page, name).is_enabled() for name in names), f"{names} can be pressed", seconds)


def samples(notebook: Any) -> dict[str, Any]:
    """What each plot shows, as something to compare."""
    return {plot: notebook.data(plot) for plot in PLOTS}


def until_all_move(notebook: Any) -> None:
    before = samples(notebook)
    notebook.until(lambda: all(now != before[plot] for plot, now in samples(notebook).items()), "all three plots move")


@pytest.mark.usefixtures("no_cluster_stays")
def test_a_lesson_with_the_bench(notebook: Any, seen: Any) -> None:
    page = notebook.page
    status = page.locator(".workbench-status").first
    notebook.open("bench.ipynb", [CELL])
    notebook.run_all()
    notebook.until(lambda: page.locator(".workbench-plot:not([hidden]) .bk-Figure").count() == 3, "three plots are there")
    assert not button(page, "Train").is_enabled()
    notebook.screenshot("bench-off.png")

    button(page, "Start").click()
    notebook.until(lambda: "starting 2 ranks" in status.inner_text(), "it says what it does", 10)
    until_pressable(notebook, "Train", seconds=90)
    assert page.locator(".workbench-ready").count() == 2

    # by the keyboard alone
    button(page, "Train").focus()
    page.keyboard.press("Enter")
    until_pressable(notebook, "Pause", "Stop")
    notebook.until(lambda: all(notebook.points(plot) >= 2 for plot in PLOTS), "all plots are drawn")
    until_all_move(notebook)
    assert page.get_by_role("list", name="ranks").first.get_by_role("listitem").count() == 2
    assert int(page.locator(".workbench-bar[role=progressbar]").get_attribute("aria-valuenow")) >= 0
    notebook.screenshot("bench-light.png")

    button(page, "Pause").click()
    until_pressable(notebook, "Resume")
    notebook.until(lambda: page.locator(".workbench-paused").count() == 2, "both lights say paused")
    page.wait_for_timeout(500)
    held = samples(notebook)
    page.wait_for_timeout(1500)
    assert samples(notebook) == held
    assert not button(page, "Pause").is_enabled()

    page.get_by_label("rate", exact=True).fill("0.01")
    page.keyboard.press("Tab")
    button(page, "Apply").click()
    button(page, "Resume").click()
    notebook.until(lambda: "rate 0.01 from step" in status.inner_text(), "the change took effect")
    until_all_move(notebook)

    # the page is loaded again: everything from the first step on is there, and goes on
    shown = notebook.data("loss")["ys"][0][0]
    notebook.command("docmanager:save")
    page.wait_for_timeout(500)
    page.reload()
    notebook.ready()
    notebook.until(lambda: notebook.points("loss") > 20, "the plots are back")
    grid, losses = notebook.data("loss")["xs"][0], notebook.data("loss")["ys"][0]
    drawn = [place for place, value in enumerate(losses) if value is not None]
    assert drawn == list(range(len(drawn))), "no hole, from the first step on"
    assert grid[0] < grid[1]
    assert losses[0] is not None
    assert shown is not None
    until_all_move(notebook)
    notebook.theme("JupyterLab Dark")
    page.wait_for_timeout(500)
    notebook.screenshot("bench-dark.png")
    notebook.theme("JupyterLab Light")

    button(page, "Stop").click()
    until_pressable(notebook, "Train")
    notebook.until(lambda: "stopped after" in status.inner_text(), "it says how it ended", 10)
    notebook.screenshot("bench-stopped.png")
    button(page, "Shut down").click()
    until_pressable(notebook, "Start")
    assert page.locator(".workbench-off").count() == 2

    assert seen.elsewhere == []
    assert seen.ours() == []


@pytest.mark.usefixtures("no_cluster_stays")
def test_a_cell_that_blocks_and_a_form_that_is_wrong(notebook: Any, seen: Any) -> None:
    page = notebook.page
    notebook.open("blocked.ipynb", [CELL, "bench.start(); bench.train(); run = await bench.wait()"])
    notebook.command("notebook:run-all-cells")
    until_pressable(notebook, "Pause", seconds=90)
    batch = page.get_by_label("batch size")
    batch.fill("0")
    page.keyboard.press("Tab")
    alert = page.get_by_role("alert", name="").filter(has_text="Job(batch_size=0): batch_size must be a whole number of at least 1, got 0")
    alert.first.wait_for()
    notebook.screenshot("bench-wrong.png")
    batch.fill("16")
    page.keyboard.press("Tab")
    button(page, "Stop").click()
    until_pressable(notebook, "Train")
    notebook.finished()

    button(page, "Train").click()
    until_pressable(notebook, "Pause")
    # a cell that holds the kernel's main thread: the plots go on, since a thread of their own feeds them, and so does Stop
    began = time.monotonic()
    notebook.execute(f"import threading; threading.Event().wait({BLOCKED})")
    page.wait_for_timeout(300)
    until_all_move(notebook)
    until_all_move(notebook)
    button(page, "Stop").click()
    until_pressable(notebook, "Train")
    assert time.monotonic() - began < BLOCKED, "it was seen while the cell still blocked"
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt(); return 1 }")
    assert seen.elsewhere == []
    assert seen.ours() == []


def test_the_first_notebook_opens_with_its_bench(notebook: Any, lab: Any, seen: Any) -> None:
    page = notebook.page
    first = Path(__file__).parents[2] / "notebooks" / "01-first-run.ipynb"
    (lab.root / first.name).write_bytes(first.read_bytes())
    notebook.open(first.name)
    for _ in range(5):  # up to the cell that shows the bench, no further: the rest is run by tests/notebooks
        notebook.command("notebook:run-cell-and-select-next")
        page.wait_for_timeout(100)
    notebook.until(lambda: page.locator(".workbench-plot:not([hidden]) .bk-Figure").count() == 3, "the bench is there")
    until_pressable(notebook, "Start")
    page.screenshot(path=notebook.artefact("first-run.png"))
    assert seen.elsewhere == []
    assert seen.ours() == []
