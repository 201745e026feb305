"""The view of a Bokeh document in a real JupyterLab: patches, a second view, a reload, the page's theme."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser

CELL = """
import numpy as np
from workbench.plots import PLOTS
from workbench.telemetry import STEPS, TRAFFIC
from workbench_widgets import BokehView
plots = {name: plot(2) for name, plot in PLOTS.items()}
view = BokehView([plot.root for plot in plots.values()])
def rows(start, count):
    made = np.zeros(2 * count, STEPS)
    for index in range(2 * count):
        step = start + index // 2
        made[index]["rank"], made[index]["step"], made[index]["samples"] = index % 2, step, 32
        made[index]["loss"], made[index]["start_seconds"] = 2.3 / (1 + step) + 0.1 * (index % 2), step * 0.01
        made[index]["compute_seconds"], made[index]["exchange_seconds"], made[index]["load_seconds"] = 0.006, 0.002, 0.001
    return made
def update(start, count):
    with view.lock:
        for plot in plots.values():
            plot.update(rows(start, count))
        view.flush()
def talk():
    with view.lock:
        plots["traffic"].update(rows(0, 0), traffic=np.array([(0, 0, 1, 3_000_000, 7), (1, 0, 0, 1_000_000, 7)], TRAFFIC))
        view.flush()
view
"""


def test_patches_arrive_and_a_reload_shows_everything(notebook: Any, seen: Any) -> None:
    page = notebook.page
    notebook.open("view.ipynb", [CELL, "update(0, 20)"])
    notebook.run_all()
    shown = page.locator(".workbench-plot:not([hidden]) .bk-Figure")
    notebook.until(lambda: shown.count() == 3, "what has something to show is there")
    notebook.until(lambda: notebook.points("loss") == 40, "both ranks' 20 steps are drawn")
    notebook.execute("update(20, 20)")
    notebook.until(lambda: notebook.points("loss") == 80, "a patch arrives")
    assert notebook.data("loss")["ys"][0][:2] == pytest.approx([2.3, 1.15])
    notebook.execute("talk()")
    notebook.until(lambda: shown.count() == 4 and shown.last.bounding_box()["height"] > 200, "who talked to whom appears when there is something")
    notebook.command("docmanager:save")
    page.reload()
    notebook.ready()
    notebook.until(lambda: notebook.points("loss") == 80, "the whole history is there after a reload")
    notebook.execute("update(40, 5)")
    notebook.until(lambda: notebook.points("loss") == 90, "patches go on after a reload")
    notebook.screenshot("view-light.png", ".workbench-plots")
    notebook.theme("JupyterLab Dark")
    colour = "() => { for (const d of Bokeh.documents) { const f = d.get_model_by_name('loss'); if (f) return f.title.text_color } }"
    notebook.until(lambda: "255" in page.evaluate(colour), "titles are light on dark")
    notebook.screenshot("view-dark.png", ".workbench-plots")
    notebook.theme("JupyterLab Light")
    assert seen.elsewhere == []
    assert seen.ours() == []


def test_a_second_view_has_everything_and_goes_on_like_the_first(notebook: Any, seen: Any) -> None:
    page = notebook.page
    notebook.open("second.ipynb", [CELL, "update(0, 20)", "view"])
    notebook.run_all()
    shown = """() => (window.Bokeh?.documents ?? []).map(d => d.get_model_by_name('loss')).filter(f => f)
        .map(f => f.renderers[0].data_source.data).map(d => [...(d.get?.('ys') ?? d.ys)].map(y => [...y].filter(Number.isFinite).length))"""
    notebook.until(lambda: page.evaluate(shown) == [[20, 20], [20, 20]], "both views show 20 steps of both ranks")
    notebook.execute("update(20, 5)")
    notebook.until(lambda: page.evaluate(shown) == [[25, 25], [25, 25]], "both views go on")
    assert page.evaluate("() => Object.keys(window.__workbench_bokehjs__).length") == 1
    assert seen.elsewhere == []
    assert seen.ours() == []
