"""Lines on axes as an SVG that any page shows: panels side by side with the same axes, y logarithmic."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from workbench.plots.colours import colours_of

Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""x (n,), ascending, and y (n,), above 0."""

WIDTH, HEIGHT, GAP = 430, 300, 18  # of a panel's plot, and between two
LEFT, TOP, BOTTOM = 62, 34, 84
FRAME, GRID, INK, FAINT = "#888888", "#e6e6e6", "#222222", "#555555"
DASHES: Final = ("", "8 3", "2 3", "10 3 2 3")
"""Lines differ in more than colour."""


@final
@dataclass(frozen=True)
class Axes:
    """What is drawn: x from 0 to `right`, y from `low` to `high`, both above 0."""

    x: str
    y: str
    right: float
    low: float
    high: float

    def across(self, x: float) -> float:
        """Pixels from the left edge of the plot."""
        return WIDTH * x / self.right

    def down(self, y: float) -> float:
        """Pixels from its upper edge."""
        return HEIGHT * math.log(self.high / y) / math.log(self.high / self.low)


def svg(axes: Axes, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """One panel per title; lines of one name look the same in all, and are named once, below."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = dict(zip(names, zip(colours_of(len(names)), DASHES * len(names), strict=False), strict=True))
    width, height = LEFT + len(panels) * (WIDTH + GAP), TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (title, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({LEFT + place * (WIDTH + GAP)} {TOP})">')
        parts += [*frame(axes, title, numbered=place == 0), *(line(axes, points, *looks[name]) for name, points in lines.items()), "</g>"]
    middle = TOP + HEIGHT / 2
    parts.append(text(18, middle, axes.y, f'transform="rotate(-90 18 {middle})" text-anchor="middle"'))
    parts += [*legend(looks, width), "</svg>"]
    return "\n".join(parts) + "\n"


def frame(axes: Axes, title: str, numbered: bool) -> Iterator[str]:
    """Axes, grid and ticks; the numbers of y where they are not to the left already."""
    yield text(WIDTH / 2, -12, title, f'text-anchor="middle" font-weight="bold" fill="{INK}"')
    for x in round_numbers(axes.right):
        yield f'<path d="M{axes.across(x):.1f} 0V{HEIGHT}" stroke="{GRID}"/>'
        yield text(axes.across(x), HEIGHT + 18, f"{x:g}", 'text-anchor="middle"')
    for y in ones_and_threes(axes.low, axes.high):
        yield f'<path d="M0 {axes.down(y):.1f}H{WIDTH}" stroke="{GRID}"/>'
        if numbered:
            yield text(-8, axes.down(y) + 4, f"{y:g}", 'text-anchor="end"')
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="{FRAME}"/>'
    yield text(WIDTH / 2, HEIGHT + 38, axes.x, 'text-anchor="middle"')


def line(axes: Axes, points: Points, colour: str, dashes: str) -> str:
    """What of it lies within the axes."""
    inside = [(x, min(max(y, axes.low), axes.high)) for x, y in zip(*points, strict=True) if x <= axes.right and math.isfinite(y)]
    places = " ".join(f"{axes.across(x):.1f},{axes.down(y):.1f}" for x, y in inside)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" stroke-dasharray="{dashes}"/>'


def legend(looks: Mapping[str, tuple[str, str]], width: float) -> Iterator[str]:
    """Names in a row below the panels."""
    step, y = width / len(looks), TOP + HEIGHT + 66
    for index, (name, (colour, dashes)) in enumerate(looks.items()):
        x = 24 + index * step
        yield f'<path d="M{x:.1f} {y}h34" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        yield text(x + 42, y + 4, name)


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more if "fill=" in more else f"{more} fill={chr(34)}{FAINT}{chr(34)}"}>{html.escape(words)}</text>'


def round_numbers(right: float) -> Sequence[float]:
    """Five to ten ticks from 0 on, 1, 2 or 5 times a power of ten apart."""
    power = 10.0 ** math.floor(math.log10(right))
    step = next(step for step in (power / 10, power / 5, power / 2, power, 2 * power) if right / step <= 10)
    return [step * k for k in range(int(right / step + 1e-9) + 1)]


def ones_and_threes(low: float, high: float) -> Sequence[float]:
    """Ticks of a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for tick in (10.0**power, 3 * 10.0**power) if low * 0.999 <= tick <= high * 1.001]
