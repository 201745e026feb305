"""Two hosts on a link of 1 Gbit, real TCP between network namespaces of this machine: overlapped exchanges beside DDP at its best bucket size.

What `bench overlap` measures, on a slow network that nobody emulates in the messages. Takes Linux, `ip`, `tc` and the right to make namespaces.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Final

from workbench.benchmarks.figures import Figure
from workbench.benchmarks.namespaces import Hosts, missing
from workbench.errors import WorkbenchError

RANKS: Final = 2
RATE: Final = "1gbit"
SECONDS: Final = 1200.0
SLOWER: Final = 1.05
"""What a step may take, in steps of DDP."""

WHAT: Final = f"{RANKS} hosts, real TCP at {RATE}"


def measure(quick: bool = False) -> list[Figure]:
    """Share of the exchange that overlap hides, and a step over that of DDP; where there can be no such hosts, why."""
    reason = missing()
    if reason is not None:
        return [Figure(f"{WHAT}: not measured", float("nan"), "", detail=reason)]
    with Hosts(RANKS, RATE) as hosts:
        meeting = {"MASTER_ADDR": hosts.address(1), "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "veth0"}
        command = (sys.executable, "-m", "workbench.benchmarks.overlap", *(["--quick"] if quick else []))
        done = hosts.mpiexec(RANKS, *command, environment=meeting, timeout=SECONDS)
    if done.returncode:
        raise WorkbenchError(f"the ranks on {WHAT} ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return [_named(Figure(**json.loads(line))) for line in done.stdout.splitlines() if line.startswith("{")]


def _named(figure: Figure) -> Figure:
    """A figure of `bench overlap`, for this network; of the rates beside DDP, the time of a step."""
    what = figure.what.replace(f"{RANKS} ranks, no emulation", WHAT)
    if figure.unit != "x":
        return replace(figure, what=what)
    return Figure.at_most(f"{WHAT}: step over that of DDP with gloo, the best bucket of each", 1 / figure.value, SLOWER, "x", figure.detail)
