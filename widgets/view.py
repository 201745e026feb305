"""A live Bokeh document in a notebook, without a server, a port or anything from the internet."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import anywidget
import bokeh
import traitlets
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.model import Model
from bokeh.protocol import Protocol

from .comms import answer_anywhere

SCRIPT: Final = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
FOLDER: Final = Path(__file__).parent

SILENT: Final = 15.0
"""Seconds after which a view that has answered nothing counts as silent: its tab was closed, or the page is stuck."""
FORGOTTEN: Final = 120.0
"""Seconds after which a silent view is struck off once another one is heard."""
LATE: Final = 25
"""Messages that a view may be behind before it counts as late; it says where it is every two seconds."""


@dataclass
class Front:
    """What is known of one place where the document is shown."""

    seq: int
    visible: bool
    heard: float


class Loader(anywidget.AnyWidget):
    """BokehJS of the installed bokeh, gzipped; the views of a page share one."""

    _esm = "export default {}"
    version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    script = traitlets.Bytes().tag(sync=True)


class BokehView(anywidget.AnyWidget):
    """Shows Bokeh models and what is done to them, in any number of places at once.

    Change the models inside `with view.lock:` and then call `flush()`: it sends everything since the last flush as one
    message. A place that opens later, reloads, or has missed a message is given the whole document.
    """

    _esm = FOLDER / "view.js"
    _css = FOLDER / "panel.css"
    loader = traitlets.Any().tag(sync=True, to_json=lambda widget, _: f"IPY_MODEL_{widget.model_id}")
    bundle = traitlets.Unicode().tag(sync=True)

    def __init__(self, roots: Sequence[Model], **traits: Any) -> None:
        self.lock = threading.RLock()
        self.document = Document()
        self.fronts: dict[str, Front] = {}
        self.opened: Callable[[], None] = lambda: None
        """Called when a place where the document is shown has opened."""
        self._changes: list[Any] = []
        self._seq = 0
        for root in roots:
            self.document.add_root(root)
        self.document.on_change_dispatch_to(self)
        super().__init__(loader=_loader(), bundle=serialize_json(self._snapshot()), **traits)
        self.on_msg(self._heard)
        answer_anywhere(self)

    def show(self, roots: Sequence[Model]) -> None:
        """Show other models from now on, everywhere."""
        with self.lock:
            self.document.clear()
            for root in roots:
                self.document.add_root(root)
            self._changes.clear()
            self._seq += 1
            for name in list(self.fronts):
                self._send_snapshot(name)

    def flush(self) -> int:
        """Send what has changed since the last flush, as one message; returns the number of changes in it."""
        with self.lock:
            changes, self._changes = self._changes, []
            if not changes:
                return 0
            self._seq += 1
            if not self.fronts:
                return 0  # nobody looks: whoever comes gets the whole document
            message = Protocol().create("PATCH-DOC", changes)
            patch, buffers = json.loads(message.content_json), message.buffers
            content = {"kind": "patch", "seq": self._seq, "patch": patch, "buffers": [buffer.id for buffer in buffers]}
            self.send(content, [buffer.to_bytes() for buffer in buffers])
            return len(changes)

    @property
    def audience(self) -> str:
        """Who looks: "nobody", "silent" (shown, but nothing is heard), "hidden", "late" or "looking"."""
        now, words = time.monotonic(), "nobody"
        for front in list(self.fronts.values()):
            behind = self._seq - front.seq
            if behind > 1 and now - front.heard > SILENT:
                state = "silent"
            elif not front.visible:
                state = "hidden"
            elif behind > LATE:
                state = "late"
            else:
                return "looking"
            words = max(words, state, key=("nobody", "silent", "hidden", "late").index)
        return words

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state that a page asks for when it is loaded again: the document as it is now, not as it was at first."""
        if key is None and self.comm is not None:
            with self.lock:
                self.flush()
                # not by the trait itself, which would send the document to everyone
                self._trait_values["bundle"] = serialize_json(self._snapshot())
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        return state

    def _snapshot(self) -> dict[str, Any]:
        with self.lock:
            return {"doc": self.document.to_json(deferred=False), "seq": self._seq}

    def _send_snapshot(self, view: str) -> None:
        self.send({"kind": "snapshot", "view": view, **json.loads(serialize_json(self._snapshot()))})

    def _heard(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        kind, view = content.get("kind"), str(content.get("view"))
        with self.lock:
            if kind == "bye":
                self.fronts.pop(view, None)
            elif kind in ("hello", "seen"):
                now = time.monotonic()
                front = Front(int(content.get("seq", -1)), bool(content.get("visible", True)), now)
                # pages that were reloaded or closed said no goodbye; one that comes back finds a gap and asks
                self.fronts = {name: known for name, known in self.fronts.items() if now - known.heard < FORGOTTEN or known.seq == self._seq}
                self.fronts[view] = front
                if kind == "hello":
                    self.flush()
                    if front.seq != self._seq:
                        self._send_snapshot(view)
                        front.seq = self._seq
                    else:
                        self.send({"kind": "snapshot", "view": view})
                    self.opened()

    def _document_patched(self, event: Any) -> None:
        with self.lock:
            self._changes.append(event)


@cache
def _script() -> bytes:
    return gzip.compress(SCRIPT.read_bytes(), 6, mtime=0)


_shared: list[Loader] = []


def _loader() -> Loader:
    """The kernel's loader; a new one when `Widget.close_all` has closed it."""
    if not _shared or _shared[0].comm is None:
        _shared[:] = [Loader(script=_script())]
    return _shared[0]
