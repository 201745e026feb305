"""What the page says is heard on the thread that it asks for."""

from __future__ import annotations

from typing import Any

import ipywidgets

from workbench.job import Job
from workbench_widgets import BokehView
from workbench_widgets.comms import answer_anywhere
from workbench_widgets.form import Form


class Comm:
    """One of ipykernel 7.4: it would send replies to where it last sent from."""

    comm_id = "x"

    def _reply_subshell_for(self, data: Any, default: Any) -> Any:
        return "the thread that a cell blocks"


def test_there_is_no_detour() -> None:
    widget = ipywidgets.IntText()
    own, widget.comm = widget.comm, None
    comm = Comm()
    object.__setattr__(widget, "_trait_values", {**widget._trait_values, "comm": comm})
    assert answer_anywhere(widget) is widget
    assert comm._reply_subshell_for({"method": "update"}, "as asked") == "as asked"
    object.__setattr__(widget, "_trait_values", {**widget._trait_values, "comm": own})


def test_where_there_is_none_nothing_happens() -> None:
    widget = ipywidgets.IntText()
    assert answer_anywhere(widget) is widget
    assert answer_anywhere(BokehView([]))
    assert Form(Job).value() == Job()
