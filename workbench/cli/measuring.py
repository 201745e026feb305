"""`workbench bench`: figures beside their targets."""

from __future__ import annotations

from importlib import import_module

from rich.markup import escape

from workbench.benchmarks import BENCHMARKS
from workbench.benchmarks.figures import Figure
from workbench.cli.screen import output, table
from workbench.options import unknown_name


def measure(name: str | None, quick: bool) -> int:
    """Run one benchmark or all, print their tables; 1 if a figure misses its target, else 0."""
    if name is not None and name not in BENCHMARKS:
        raise ValueError(unknown_name("benchmark", name, BENCHMARKS))
    missed = 0
    for chosen in [name] if name is not None else BENCHMARKS:
        output.print(f"[bold]{chosen}[/]")
        figures: list[Figure] = import_module(BENCHMARKS[chosen]).measure(quick)
        output.print(table(("what", "measured", "target", "", "how"), map(_row, figures), words=("what", "", "how")))
        missed += sum(figure.met is False for figure in figures)
    return 1 if missed else 0


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[figure.met]
    return escape(figure.what), f"{figure.value:.4g} {figure.unit}".strip(), figure.target, verdict, escape(figure.detail)
