"""The card of a cluster: whether it is up, its ranks and their devices, and the buttons that start and stop it."""

from __future__ import annotations

import dataclasses
import html
from collections import Counter
from collections.abc import Callable
from typing import Any

import ipywidgets

from . import words
from .buttons import button


class ClusterCard(ipywidgets.VBox):
    """Shows a status; its buttons only call back."""

    def __init__(self, start: Callable[[], None], restart: Callable[[], None], stop: Callable[[], None]) -> None:
        self.start_button = button("Start", "", "start the ranks, or attach to them if they are up", start)
        self.restart_button = button("Restart", "", "stop the ranks and start them anew", restart)
        self.stop_button = button("Shut down", "", "end the processes of all ranks", stop)
        self._title, self._facts = ipywidgets.HTML(), ipywidgets.HTML()
        buttons = ipywidgets.HBox([self.start_button, self.restart_button, self.stop_button]).add_class("workbench-buttons")
        super().__init__([self._title, self._facts, buttons])
        self.add_class("workbench-card")

    def show(self, name: str, ranks: int, state: str, status: Any, *, up: bool, busy: bool, training: bool) -> None:
        """`state` in a word; `status` a `ClusterStatus` or None where none is known yet."""
        words_for_it = html.escape(f"{name} · {ranks} rank{'s' * (ranks != 1)} · {state}")
        self._title.value = f'<div class="workbench-title">Cluster <small>{words_for_it}</small></div>'
        self._facts.value = f'<div class="workbench-facts">{facts(status) if up and status is not None else ""}</div>'
        self.start_button.disabled = up or busy
        self.start_button.button_style = "" if up or busy else "primary"
        self.restart_button.disabled = not up or busy or training
        self.stop_button.disabled = not up or busy


def facts(status: Any) -> str:
    """What is known of the ranks: devices in a line, the rest in a table that opens."""
    rows = [_plain(row) for row in getattr(status, "rows", None) or []]
    devices = Counter(str(row.get("device", "")) for row in rows if row.get("device"))
    shared = [f"{device}: {ranks} ranks" if ranks > 1 else device for device, ranks in devices.items()]
    line = ", ".join(shared[:4]) + (f" and {len(shared) - 4} more" if len(shared) > 4 else "")
    network = getattr(status, "network", None)
    link = f"emulated link of {network.words}" if network is not None else ""
    head = " · ".join(filter(None, [line, str(getattr(status, "mpi", "") or ""), link]))
    if not rows:
        return html.escape(head)
    return f"<details><summary>{html.escape(head or 'ranks')}</summary>{words.table(rows)}</details>"


def _plain(row: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return dict(row)
