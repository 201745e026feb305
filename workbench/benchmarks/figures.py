"""A measured figure beside its target, and how ranks are started to measure one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from workbench.channel.launch import find_mpi
from workbench.errors import WorkbenchError


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
    mpi = find_mpi()
    command = [mpi.mpiexec, "-n", str(ranks), *mpi.arguments(), sys.executable, "-m", module, *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=os.environ | mpi.environment(ranks), stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise WorkbenchError(f"{module} on {ranks} ranks ended with exit code {done.returncode}: {done.stdout[-2000:]}")
    return [Figure(**json.loads(line)) for line in lines]


def tell(figures: list[Figure]) -> None:
    """Rank 0 prints what it has measured."""
    for figure in figures:
        print(json.dumps(asdict(figure)), flush=True)


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
