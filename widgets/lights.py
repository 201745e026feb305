"""A light per rank: colour, shape and word, so that no one of them is needed to read it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import ipywidgets

STATES: Final = {
    "off": ("○", "off"),
    "ready": ("◇", "ready"),
    "starting": ("◌", "starting"),
    "training": ("●", "training"),
    "waiting": ("◐", "waiting"),
    "paused": ("‖", "paused"),
    "done": ("✓", "done"),
    "stopped": ("■", "stopped"),
    "silent": ("?", "no answer"),
    "failed": ("✕", "failed"),
}
"""State -> shape and word; the colours are in panel.css."""

LIMIT: Final = 128
"""Lights drawn one by one; beyond, ranks in the same state are counted together."""


@final
@dataclass(frozen=True)
class Light:
    """What one rank is doing: a key of `STATES`, and a line more for whoever points at it."""

    rank: int
    state: str
    detail: str = ""


class Lights(ipywidgets.HTML):
    """The lights of all ranks as one widget, sent only when one of them changes."""

    def __init__(self) -> None:
        super().__init__(layout={"width": "100%", "margin": "0"})
        self.show([])

    def show(self, lights: Sequence[Light]) -> None:
        """Show these."""
        self.value = many(lights) if len(lights) > LIMIT else each(lights)


def each(lights: Sequence[Light]) -> str:
    """A list with one item per rank."""
    items = []
    for light in lights:
        shape, word = STATES[light.state]
        title = html.escape(f"rank {light.rank}: {light.detail or word}", quote=True)
        items.append(
            f'<span role="listitem" class="workbench-light workbench-{light.state}" title="{title}" aria-label="{title}">'
            f'<b aria-hidden="true">{shape}</b> {light.rank} <i>{word}</i></span>'
        )
    return f'<div role="list" aria-label="ranks" class="workbench-lights">{"".join(items)}</div>'


def many(lights: Sequence[Light]) -> str:
    """A list with one item per state and the number of ranks in it."""
    items = []
    for state, (shape, word) in STATES.items():
        count = sum(light.state == state for light in lights)
        if count:
            kind = f"workbench-light workbench-{state}"
            items.append(f'<span role="listitem" class="{kind}"><b aria-hidden="true">{shape}</b> {count} ranks <i>{word}</i></span>')
    return f'<div role="list" aria-label="ranks" class="workbench-lights">{"".join(items)}</div>'
