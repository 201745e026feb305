"""Widgets without a browser: outside a kernel their comm goes nowhere, and here it is listened to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comm
import ipywidgets
import pytest


class Sent(list):
    """What a widget would have sent to the page: (type, data, buffers)."""

    def custom(self) -> list[dict[str, Any]]:
        return [data["content"] for _, data, _ in self if data.get("method") == "custom"]

    def updates(self) -> list[dict[str, Any]]:
        return [data["state"] for _, data, _ in self if data.get("method") == "update"]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """listen(widget) -> what it sends from now on."""

    def attach(widget: ipywidgets.Widget) -> Sent:
        sent = Sent()

        def publish(msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
            sent.append((msg_type, data, buffers))

        monkeypatch.setattr(widget.comm, "publish_msg", publish)
        return sent

    return attach


@pytest.fixture
def say() -> Any:
    """say(widget, **content): a custom message from the page."""

    def speak(widget: ipywidgets.Widget, **content: Any) -> None:
        widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    return speak


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing ipykernel, as other tests do, puts a comm that wants a kernel in the place of the one that goes nowhere."""
    monkeypatch.setattr(comm, "create_comm", comm.DummyComm)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    ipywidgets.Widget.close_all()
