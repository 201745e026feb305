from __future__ import annotations

from pathlib import Path

from tests.runs.fakes import write_run
from workbench.runs.run import Run
from workbench.runs.side_by_side import render_side_by_side, write_side_by_side


def test_the_page_has_a_line_and_the_plots_of_each_run_and_needs_nothing_else(tmp_path: Path) -> None:
    runs = [Run.open(write_run(tmp_path / name, ranks=ranks)) for name, ranks in (("one", 2), ("<b>two", 3))]
    page = write_side_by_side(runs, tmp_path / "deep" / "page.html")
    text = page.read_text(encoding="utf-8")
    assert text.count("data-root-id") == 2 * 3
    for run in runs:
        assert run.folder.name.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "<b>two" not in text
    assert "<script src" not in text
    assert "<link" not in text
    assert list(page.parent.iterdir()) == [page]


def test_runs_without_steps_have_a_line_and_no_plots(tmp_path: Path) -> None:
    text = render_side_by_side([Run.open(write_run(tmp_path / "none", ranks=0))])
    assert "none" in text
    assert "<script" not in text
