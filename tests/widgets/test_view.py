"""The view of a Bokeh document: one message per flush, numbered; whoever comes late gets everything."""

from __future__ import annotations

import gzip
import json
from typing import Any

import bokeh
import pytest
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from workbench_widgets import view as module
from workbench_widgets.view import BokehView


@pytest.fixture
def plot() -> tuple[ColumnDataSource, Any]:
    source = ColumnDataSource({"x": [], "y": []})
    shown = figure(name="loss", height=100)
    shown.line("x", "y", source=source)
    return source, shown


def columns(bundle: dict[str, Any]) -> dict[str, list[float]]:
    """The data in a snapshot."""
    found: list[dict[str, Any]] = []

    def search(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("name") == "ColumnDataSource":
                found.append(node["attributes"]["data"])
            for below in node.values():
                search(below)
        elif isinstance(node, list):
            for below in node:
                search(below)

    search(bundle["doc"])
    return dict(found[0]["entries"])


def test_any_number_of_changes_is_one_message(plot: Any, listen: Any, say: Any) -> None:
    source, root = plot
    view = BokehView([root])
    sent = listen(view)
    say(view, kind="hello", view="a", seq=0, visible=True)
    sent.clear()
    with view.lock:
        source.stream({"x": [1], "y": [2]})
        source.stream({"x": [2], "y": [4]})
        root.title.text = "new"
    assert view.flush() == 3
    (message,) = sent.custom()
    assert (message["kind"], message["seq"]) == ("patch", 1)
    assert [event["kind"] for event in message["patch"]["events"]] == ["ColumnsStreamed", "ColumnsStreamed", "ModelChanged"]
    assert view.flush() == 0
    assert len(sent) == 1


def test_a_second_view_gets_the_document_as_it_is(plot: Any, listen: Any, say: Any) -> None:
    source, root = plot
    view = BokehView([root])
    sent = listen(view)
    say(view, kind="hello", view="a", seq=0, visible=True)
    source.stream({"x": [1, 2], "y": [3, 4]})
    view.flush()
    sent.clear()
    say(view, kind="hello", view="b", seq=0, visible=True)
    (snapshot,) = sent.custom()
    assert (snapshot["kind"], snapshot["view"], snapshot["seq"]) == ("snapshot", "b", 1)
    assert columns(snapshot) == {"x": [1, 2], "y": [3, 4]}


def test_a_view_that_is_up_to_date_is_not_sent_the_document_again(plot: Any, listen: Any, say: Any) -> None:
    view = BokehView([plot[1]])
    sent = listen(view)
    say(view, kind="hello", view="a", seq=0, visible=True)
    assert sent.custom() == [{"kind": "snapshot", "view": "a"}]


def test_changes_that_are_not_flushed_yet_are_in_the_snapshot_or_after_it_but_not_twice(plot: Any, listen: Any, say: Any) -> None:
    source, root = plot
    view = BokehView([root])
    sent = listen(view)
    say(view, kind="hello", view="a", seq=0, visible=True)
    source.stream({"x": [1], "y": [3]})
    say(view, kind="hello", view="b", seq=0, visible=True)
    assert [(message["kind"], message["seq"]) for message in sent.custom()[1:]] == [("patch", 1), ("snapshot", 1)]
    assert view.flush() == 0


def test_a_page_that_is_loaded_again_gets_the_document_as_it_is(plot: Any, listen: Any) -> None:
    source, root = plot
    view = BokehView([root])
    sent = listen(view)
    source.stream({"x": [1, 2], "y": [3, 4]})
    bundle = json.loads(view.get_state()["bundle"])
    assert columns(bundle) == {"x": [1, 2], "y": [3, 4]}
    assert bundle["seq"] == 1
    assert sent == []


def test_nothing_is_sent_or_kept_when_nobody_looks(plot: Any, listen: Any, say: Any) -> None:
    source, root = plot
    view = BokehView([root])
    sent = listen(view)
    for step in range(100):
        source.stream({"x": [step], "y": [step]}, 10)
        view.flush()
    assert sent == []
    assert view._changes == []
    assert view.audience == "nobody"
    say(view, kind="hello", view="a", seq=0, visible=True)
    (snapshot,) = sent.custom()
    assert snapshot["seq"] == 100
    assert columns(snapshot)["x"] == list(range(90, 100))


def test_other_models_are_shown_to_everyone(plot: Any, listen: Any, say: Any) -> None:
    view = BokehView([plot[1]])
    sent = listen(view)
    say(view, kind="hello", view="a", seq=0, visible=True)
    sent.clear()
    view.show([figure(name="other")])
    (snapshot,) = sent.custom()
    assert [root["attributes"]["name"] for root in snapshot["doc"]["roots"]] == ["other"]
    assert snapshot["seq"] == 1
    assert view.flush() == 0


def test_who_looks(plot: Any, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = plot
    view = BokehView([root])
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def flush(times: int) -> None:
        for _ in range(times):
            source.stream({"x": [0], "y": [0]}, 10)
            view.flush()

    assert view.audience == "nobody"
    say(view, kind="hello", view="a", seq=0, visible=False)
    assert view.audience == "hidden"
    say(view, kind="seen", view="a", seq=0, visible=True)
    assert view.audience == "looking"
    flush(module.LATE + 1)
    assert view.audience == "late"
    clock[0] += module.SILENT + 1
    assert view.audience == "silent"
    say(view, kind="seen", view="a", seq=view._seq, visible=True)
    assert view.audience == "looking"
    say(view, kind="bye", view="a")
    assert view.audience == "nobody"


def test_pages_that_never_said_goodbye_are_forgotten(plot: Any, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = plot
    view = BokehView([root])
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for reload in range(50):
        say(view, kind="hello", view=str(reload), seq=reload, visible=True)
        source.stream({"x": [0], "y": [0]}, 10)
        view.flush()
        clock[0] += module.FORGOTTEN + 1
    assert len(view.fronts) <= 2


def test_the_script_is_that_of_the_installed_bokeh_and_one_for_all_views(plot: Any) -> None:
    first, second = BokehView([plot[1]]), BokehView([figure()])
    assert first.loader is second.loader
    assert first.loader.version == bokeh.__version__
    assert gzip.decompress(first.loader.script) == module.SCRIPT.read_bytes()
    assert len(first.loader.script) < 450_000


def test_nothing_in_the_page_side_names_another_machine() -> None:
    for name in ("view.js", "panel.css"):
        text = (module.FOLDER / name).read_text(encoding="utf-8").replace("xmlns='http%3A//www.w3.org/2000/svg'", "")
        assert "http" not in text
