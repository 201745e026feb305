"""Buttons with a text, a tooltip and one thing that they do."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets


def button(text: str, shape: str, tooltip: str, pressed: Callable[[], None]) -> ipywidgets.Button:
    """`shape` is a class of panel.css that draws a sign before the text, "" for none; screen readers read only the text."""
    made = ipywidgets.Button(description=text, tooltip=tooltip)
    if shape:
        made.add_class(f"workbench-{shape}")
    made.on_click(lambda _button: pressed())
    return made
