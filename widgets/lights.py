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
    "serving": ("▣", "server"),
    "paused": ("‖", "paused"),
    "done": ("✓", "done"),
    "stopped": ("■", "stopped"),
    "silent": ("?", "no answer"),
    "failed": ("✕", "failed"),
}
"""State -> shape and word; the colours are in panel.css."""

WORDS: Final = 16
"""Up to so many ranks every light has its word beside it; beyond, words stand before the lights, with the number of ranks."""
LIMIT: Final = 128
"""Lights drawn one by one; beyond, only the numbers of ranks are shown."""


@final
@dataclass(frozen=True)
class Light:
    """What one rank is doing: a key of `STATES`, and a line more for whoever points at it. A server says so in any state."""

    rank: int
    state: str
    detail: str = ""
    server: bool = False

    @property
    def word(self) -> str:
        """The state, and that it is a server's."""
        word = STATES[self.state][1]
        return f"server, {word}" if self.server and self.state != "serving" else word


class Lights(ipywidgets.HTML):
    """The lights of all ranks as one widget, sent only when one of them changes."""

    def __init__(self) -> None:
        super().__init__(layout={"width": "100%", "margin": "0"})
        self.show([])

    def show(self, lights: Sequence[Light]) -> None:
        """Show these."""
        if len(lights) <= WORDS:
            self.value = each(lights)
        else:
            self.value = counts(lights) + (each(lights, words=False) if len(lights) <= LIMIT else "")


def each(lights: Sequence[Light], words: bool = True) -> str:
    """A list with one item per rank; without `words` they are only in its label."""
    items = []
    for light in lights:
        shape, word = STATES[light.state][0], light.word
        title = html.escape(f"rank {light.rank}: {word}{f', {light.detail}' if light.detail else ''}", quote=True)
        items.append(
            f'<span role="listitem" class="workbench-light workbench-{light.state}" title="{title}" aria-label="{title}">'
            f'<b aria-hidden="true">{shape}</b> {light.rank}{f" <i>{word}</i>" if words else ""}</span>'
        )
    return f'<div role="list" aria-label="ranks" class="workbench-lights">{"".join(items)}</div>'


def counts(lights: Sequence[Light]) -> str:
    """A list with one item per state and the number of ranks in it."""
    items = []
    for state, (shape, word) in STATES.items():
        count = sum(light.state == state for light in lights)
        if count:
            kind = f"workbench-light workbench-{state}"
            items.append(f'<span role="listitem" class="{kind}"><b aria-hidden="true">{shape}</b> {count} ranks <i>{word}</i></span>')
    return f'<div role="list" aria-label="states" class="workbench-lights">{"".join(items)}</div>'
