from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.runs.fakes import FakeFeed, event, source_of, steps_of, write_run
from workbench.runs.figures import NO_TRAFFIC
from workbench.runs.report import NEWEST_EVENTS, ranks_frame, render_report
from workbench.runs.run import Run
from workbench.store import RunLog, write_json

EVIL = "<script>alert('x')</script>&\""


class Page(HTMLParser):
    """The text of a page, what it loads from elsewhere, and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_script = tag == "script"
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if not self._in_script:
            self.words.append(data)


def test_a_report_into_a_folder_is_a_file_in_it(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run", ranks=1, steps=3))
    (tmp_path / "pages").mkdir()
    assert run.report(tmp_path / "pages") == tmp_path / "pages" / "report.html"
    assert run.report(tmp_path / "other.html").is_file()


def test_a_report_is_one_file_with_everything(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=3)
    write_json(folder / "cluster.json", {"mpi": "Open MPI v5", "packages": {"torch": "2"}})
    path = Run.open(folder).report()
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.links == []
    words = " ".join(page.words)
    for expected in ("run: done", "90.0 %", "1,920 samples/s", "Open MPI v5", "learning_rate", "dropped samples 29", "samples over training_seconds"):
        assert expected in words
    for name in ("loss", "throughput", "phases"):
        assert f'"name":"{name}"' in text
    assert text.count("<h2>") == 7
    assert not list(folder.glob(".report*"))
    other = Run.open(folder).report(tmp_path / "deep" / "er.html")
    assert other.exists()


def test_nothing_from_a_run_becomes_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / f"run {EVIL.replace('/', '')}", ranks=1)
    write_json(folder / "job.json", {"model": EVIL, "data": EVIL, "strategy": {"kind": EVIL}})
    write_json(folder / "cluster.json", {EVIL: [EVIL]})
    log = RunLog(folder, source_of(0))
    log.event(event(0, 5, EVIL, 1, 2.0, **{EVIL: EVIL}))
    log.close()
    error = {"rank": 0, "host": EVIL, "device": EVIL, "step": 1, "where": EVIL, "traceback": EVIL}
    write_json(folder / "status.json", {"status": "failed", "steps": 1, "error": error})
    text = render_report(Run.open(folder))
    page = Page(text)
    harmless = Page(render_report(Run.open(write_run(tmp_path / "plain", ranks=1))))
    assert page.tags.count("script") == harmless.tags.count("script")
    assert "alert('x')" not in re.sub(r"&#x27;", "", text)
    assert " ".join(page.words).count(EVIL) >= 9


def test_a_report_of_a_run_that_goes_on_or_has_nothing(tmp_path: Path) -> None:
    feed = FakeFeed({(source_of(0), "steps"): steps_of(0, 10)})
    run = Run(tmp_path, feed)
    assert "starting" in render_report(run)
    assert "<script" not in render_report(run)
    feed.push(source_of(0), "steps", 0, 10)
    text = render_report(run)
    assert "running" in text
    assert "There is no job.json" in text
    run.close()


def test_many_events_are_cut(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1)
    log = RunLog(folder, source_of(0))
    for number in range(300):
        log.event(event(0, 2 + number, "change", number, 10.0 + number, learning_rate=0.1, note="x" * 1000))
    log.close()
    text = render_report(Run.open(folder))
    assert f"The newest {NEWEST_EVENTS} of 302" in text
    assert "x" * 301 not in text


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(write_run(tmp_path / "run", ranks=1))
    path = run.report()
    before = path.read_bytes()

    def full(self: Path, *args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        run.report()
    assert path.read_bytes() == before


def test_each_rank_has_its_row() -> None:
    import numpy as np

    frame = ranks_frame(np.concatenate([steps_of(rank, 10) for rank in range(2)]), NO_TRAFFIC)
    assert frame["rank"].tolist() == [0, 1]
    assert frame["samples"].tolist() == [320, 320]
    assert frame["samples/s"].tolist() == pytest.approx([640, 640], rel=1e-5)
    assert frame["compute ms"].tolist() == pytest.approx([20, 21], rel=1e-5)
    assert frame["bytes sent per step"].tolist() == [1000, 1000]
