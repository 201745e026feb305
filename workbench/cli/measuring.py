"""`workbench bench`: figures beside their targets."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path

from rich.markup import escape

from workbench.benchmarks import BENCHMARKS
from workbench.benchmarks.figures import Figure
from workbench.cli.screen import output, table
from workbench.options import unknown_name


def measure(name: str | None, quick: bool, ranks: str | None = None, network: str | None = None, out: Path | None = None) -> int:
    """Run one benchmark or all, print their tables; 1 if a figure misses its target, else 0.

    What is given beside the name and `quick` is for benchmarks that take it; ValueError where the one that is named does not.
    """
    if name is not None and name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    given = {option: value for option, value in (("ranks", numbers(ranks)), ("network", network), ("out", out)) if value is not None}
    for option in given:
        takes = [known for known in BENCHMARKS if option in signature(_measuring(known)).parameters]
        if name not in takes:
            raise ValueError(f"--{option} is for bench {' and bench '.join(takes)}, got bench {name or '(all of them)'}")
    missed = 0
    for chosen in [name] if name is not None else BENCHMARKS:
        output.print(f"[bold]{chosen}[/]")
        figures = _measuring(chosen)(quick, **given)
        output.print(table(("what", "measured", "target", "", "how"), map(_row, figures), words=("what", "", "how")))
        missed += sum(figure.met is False for figure in figures)
    return 1 if missed else 0


def numbers(words: str | None) -> tuple[int, ...] | None:
    """ "2,4" as (2, 4). ValueError where a word is no whole number."""
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"--ranks must be whole numbers with commas between them, as in 2,4; got {words!r}") from None


def _measuring(name: str) -> Callable[..., list[Figure]]:
    measuring: Callable[..., list[Figure]] = import_module(BENCHMARKS[name]).measure
    return measuring


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[figure.met]
    return escape(figure.what), f"{figure.value:.4g} {figure.unit}".strip(), figure.target, verdict, escape(figure.detail)
