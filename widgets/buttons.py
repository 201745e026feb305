"""Buttons with a text, a tooltip and one thing that they do."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets

from .comms import answer_anywhere


def button(text: str, shape: str, tooltip: str, pressed: Callable[[], None]) -> ipywidgets.Button:
    """`shape` is a class of panel.css that draws a sign before the text, "" for none; screen readers read only the text."""
    made = answer_anywhere(ipywidgets.Button(description=text, tooltip=tooltip))
    if shape:
        made.add_class(f"workbench-{shape}")
    made.on_click(lambda _button: pressed())
    return made


def toggle(text: str, tooltip: str, toggled: Callable[[bool], None]) -> ipywidgets.ToggleButton:
    """A button that stays down."""
    made = answer_anywhere(ipywidgets.ToggleButton(value=False, description=text, tooltip=tooltip))
    made.observe(lambda change: toggled(change["new"]), "value")
    return made
