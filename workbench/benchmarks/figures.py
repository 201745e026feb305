"""A measured figure beside its target, and how ranks are started to measure one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from workbench.benchmarks import ranks as started

SILENCE_SECONDS: Final = 1800.0
"""Ranks that tell their figures only at the end may say nothing for so long."""


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark's table. `met` is None where there is no target."""

    what: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None
    detail: str = ""

    @classmethod
    def at_most(cls, what: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
        """A figure that should not exceed `limit`."""
        return cls(what, value, unit, f"<= {limit:g}", value <= limit, detail)

    @classmethod
    def at_least(cls, what: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
        """A figure that should reach `limit`."""
        return cls(what, value, unit, f">= {limit:g}", value >= limit, detail)


def on_ranks(ranks: int, module: str, quick: bool) -> list[Figure]:
    """Run `python -m module` on real ranks, in the environment that engines get; rank 0 prints its figures with `tell`."""
    return [Figure(**line) for line in started.told(ranks, module, *(["--quick"] if quick else []), silence=SILENCE_SECONDS)]


def tell(figures: list[Figure]) -> None:
    """Rank 0 prints what it has measured."""
    for figure in figures:
        started.tell(**asdict(figure))


def turns(rounds: int, *blocks: Callable[[], Any]) -> list[list[Any]]:
    """Run the blocks in turn, `rounds` times after one round that does not count: A B C, B C A, ...; their results by block."""
    results: list[list[Any]] = [[] for _ in blocks]
    for turn in range(-1, rounds):
        for shift in range(len(blocks)):
            index = (turn + shift) % len(blocks)
            result = blocks[index]()
            if turn >= 0:
                results[index].append(result)
    return results
