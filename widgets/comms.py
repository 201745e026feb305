"""The way from the page to the kernel, kept open while a cell runs."""

from __future__ import annotations

from typing import Any, TypeVar

import ipywidgets

Shown = TypeVar("Shown", bound=ipywidgets.Widget)


def answer_anywhere(widget: Shown) -> Shown:
    """Have what the page says to a widget handled on the thread that JupyterLab asks for; returns the widget.

    JupyterLab sends what widgets say to a thread of its own in the kernel, so that it is heard while a cell runs.
    ipykernel 7.4 instead takes it to the thread that last sent something on the widget's comm. That thread may be the
    one that the cell blocks; and while a cell awaits, it reports no end of such a message, whereupon the page sends no
    further change of that widget, ever. Where there is no such detour this does nothing.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = _as_asked
    return widget


def _as_asked(_data: Any, asked: Any) -> Any:
    return asked
