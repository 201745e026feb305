"""One row of a form per kind of option: what a person sees and types, and the value that it stands for."""

from __future__ import annotations

import html
import json
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import ipywidgets

from workbench.options import Option, plain

from .comms import answer_anywhere

LABEL = {"description_width": "104px"}
INPUT = "216px"
WIDE = "292px"
"""Of an input that has no unit and no bounds beside it."""


class Field(ABC):
    """A row: a labelled input, its unit and bounds, and below it the words for what is wrong or what it is for."""

    def __init__(self, described: Option, control: ipywidgets.Widget) -> None:
        self.described, self.control = described, answer_anywhere(control)
        control.style = LABEL
        control.layout.width = INPUT if limits(described) else WIDE
        control.tooltip = " ".join(filter(None, [described.help, f"({limits(described)})" if limits(described) else ""]))
        self._hint = ipywidgets.HTML(f'<span class="workbench-hint">{html.escape(limits(described))}</span>')
        self._below = ipywidgets.HTML(layout={"display": "none"})
        self._explained = False
        self._error = ""
        line = ipywidgets.HBox([control, self._hint] if limits(described) else [control])
        self.root = ipywidgets.VBox([line, self._below]).add_class("workbench-field")

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Keywords for the class that the form makes; ValueError in words for what cannot be read."""

    @abstractmethod
    def show(self, value: Any) -> None:
        """Put a value into the row."""

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after every change."""
        self.control.observe(lambda _change: callback(), "value")

    def enable(self, on: bool) -> None:
        """Whether it can be changed."""
        self.control.disabled = not on

    @property
    def error(self) -> str:
        """The words shown for what is wrong, "" if nothing is."""
        return self._error

    @error.setter
    def error(self, words: str) -> None:
        self._error = words
        self._write()

    def explain(self, on: bool) -> None:
        """Show or hide the line of help."""
        self._explained = on
        self._write()

    def help(self) -> str:
        """What the field is for."""
        return self.described.help

    def _write(self) -> None:
        lines = [f'<div class="workbench-error" role="alert">{html.escape(self._error)}</div>'] if self._error else []
        if self._explained and self.help():
            lines.append(f'<div class="workbench-help">{html.escape(self.help())}</div>')
        self._below.value = "".join(lines)
        self._below.layout.display = None if lines else "none"


@final
class Flag(Field):
    """True or False."""

    def __init__(self, described: Option) -> None:
        super().__init__(described, ipywidgets.Checkbox(value=bool(described.default), description=label(described.name), indent=True))

    def values(self) -> dict[str, Any]:
        """What the box says."""
        return {self.described.name: self.control.value}

    def show(self, value: Any) -> None:
        """Tick it or not."""
        self.control.value = bool(value)


@final
class Choice(Field):
    """One of a few values."""

    def __init__(self, described: Option) -> None:
        choices = [(str(choice), choice) for choice in described.choices or ()]
        super().__init__(described, ipywidgets.Dropdown(options=choices, value=described.default, description=label(described.name)))

    def values(self) -> dict[str, Any]:
        """What is chosen."""
        return {self.described.name: self.control.value}

    def show(self, value: Any) -> None:
        """Choose it."""
        self.control.value = value


@final
class Number(Field):
    """A number that is always there. What is out of bounds stays in the box, so that the words below can say so."""

    def __init__(self, described: Option) -> None:
        kind = ipywidgets.IntText if described.kind is int else ipywidgets.FloatText
        step = described.step or (1 if described.kind is int else None)
        super().__init__(described, kind(value=described.default, step=step, description=label(described.name)))

    def values(self) -> dict[str, Any]:
        """What is typed."""
        return {self.described.name: self.control.value}

    def show(self, value: Any) -> None:
        """Write it."""
        self.control.value = value


@final
class Text(Field):
    """What is typed as text: strings, numbers that may be absent, several numbers, a JSON object, a JSON list of entries of a table."""

    def __init__(self, described: Option) -> None:
        text = self._text(described.default, described)
        placeholder = self._placeholder(described)
        super().__init__(described, ipywidgets.Text(value=text, placeholder=placeholder, description=label(described.name), continuous_update=False))

    @staticmethod
    def _placeholder(described: Option) -> str:
        return {dict: "{}", tuple: "none"}.get(described.kind, "not set" if described.optional else "")

    @staticmethod
    def _text(value: Any, described: Option) -> str:
        if value is None or value in ({}, ()):
            return ""
        if described.several:
            return json.dumps(plain(value, described.table))
        if described.kind is tuple:
            return ", ".join(map(str, value))
        return json.dumps(value) if described.kind is dict else str(value)

    def values(self) -> dict[str, Any]:
        """What is typed, read as the option's kind; nothing typed is None, {} or ()."""
        described, typed = self.described, self.control.value.strip()
        kind = described.kind
        if not typed and (described.optional or kind in (dict, tuple)):
            return {described.name: None if described.optional else kind()}
        try:
            value: Any = typed
            if kind in (int, float):
                value = number(typed)
            elif kind is dict or described.several:
                value = json.loads(typed)
            elif kind is tuple and self._numbers():
                value = tuple(number(part) for part in typed.strip("()[]").split(",") if part.strip())
            elif kind is tuple:
                value = tuple(json.loads(typed))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{described.name} must be {self._wanted()}, got {typed!r}") from error
        return {described.name: value}

    def _numbers(self) -> bool:
        args = [arg for kind in (self.described.type, *typing.get_args(self.described.type)) for arg in typing.get_args(kind)]
        return int in args or float in args

    def _wanted(self) -> str:
        kind = self.described.kind
        if kind is dict:
            return 'a JSON object, like {"name": 1}'
        if self.described.several:
            return f'a JSON list, like [{{"kind": "{next(iter(self.described.table or ()))}"}}]'
        if kind is tuple:
            return "numbers separated by commas" if self._numbers() else "a JSON list"
        return "a whole number, or nothing" if kind is int else "a number, or nothing"

    def show(self, value: Any) -> None:
        """Write it."""
        self.control.value = self._text(value, self.described)


def label(name: str) -> str:
    """What a person reads for a field's name."""
    return name.replace("_", " ").replace("-", " ")


def limits(described: Option) -> str:
    """Unit and bounds in a few characters: "samples, ≥ 1"."""
    low, high, above = described.minimum, described.maximum, described.above
    if high is not None and high >= 2**31:
        high = None  # the width of a number, not a bound that anyone meets
    if high is not None and (low is not None or above is not None):
        bounds = f"{f'{low:g} to' if low is not None else f'> {above:g}, ≤'} {high:g}"
    elif low is not None:
        bounds = f"≥ {low:g}"
    elif above is not None:
        bounds = f"> {above:g}"
    else:
        bounds = f"≤ {high:g}" if high is not None else ""
    return ", ".join(filter(None, [described.unit, bounds]))


def number(typed: str) -> int | float:
    """An int where the text is one, else a float; ValueError otherwise."""
    try:
        return int(typed)
    except ValueError:
        return float(typed)
