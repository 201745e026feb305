"""The bench in a real JupyterLab, with a real cluster behind it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.cluster, pytest.mark.timeout(300)]

CELL = """
from workbench import Cluster, Job
from workbench_widgets import Bench
cluster = Cluster(ranks=2, name="bench-in-the-browser", devices="cpu")
bench = Bench(cluster, Job(steps=4000, batch_size=16, learning_rate=0.05))
bench
"""


def test_start_train_pause_stop(notebook: Any, seen: Any) -> None:
    page = notebook.page
    notebook.open("bench.ipynb", [CELL])
    notebook.run_all()
    page.wait_for_function("() => document.querySelectorAll('.workbench-plot .bk-Figure').length === 3")
    notebook.screenshot("bench-off.png")
    page.get_by_role("button", name="Start", exact=True).click()
    try:
        page.locator(".workbench-ready").first.wait_for(timeout=60_000)
        notebook.screenshot("bench-ready.png")
        page.get_by_role("button", name="Train").click()
        for plot in ("loss", "throughput", "phases"):
            notebook.until(lambda plot=plot: notebook.points(plot) >= 2, f"{plot} is drawn")
        notebook.screenshot("bench-running.png")
        page.wait_for_timeout(3000)
        notebook.screenshot("bench-running-2.png")
    finally:
        notebook.execute("cluster.stop()")
        page.wait_for_timeout(4000)
