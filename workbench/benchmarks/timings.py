"""What `workbench bench exchange` has measured: timings with where they were taken, and the questions that figures ask of them."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, final

from workbench.benchmarks.figures import Figure
from workbench.benchmarks.heats import PEERS
from workbench.channel.launch import cores

HERE: Final = "this host"
"""The network that is there, in place of the name of one that is emulated."""

COLUMNS: Final = ("network", "ranks", "collective", "wire", "nbytes", "seconds", "fastest", "predicted", "bus_bandwidth", "rounds", "heat")


@final
@dataclass(frozen=True)
class Timing:
    """One entry of one heat: `samples` are the seconds of an exchange on the slowest rank, round by round."""

    network: str
    ranks: int
    heat: int
    collective: str
    wire: str
    nbytes: int
    """Of the float32 numbers that are averaged, whatever travels."""
    samples: tuple[float, ...]
    predicted: float | None = None
    """By the formula of the collective and the wire, with the calibrated latency and bandwidth (an emulated network: with its own)."""

    @property
    def seconds(self) -> float:
        """The median round."""
        return median(self.samples)

    @property
    def fastest(self) -> float:
        """The fastest round."""
        return min(self.samples)

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.samples)

    @property
    def bus_bandwidth(self) -> float:
        """Bytes/s at which 2(P-1)/P of the buffer went by: what the cheapest exact exchange sends, so that all compare."""
        return 2 * (self.ranks - 1) / self.ranks * self.nbytes / self.seconds


@final
@dataclass(frozen=True)
class Calibration:
    """What the links of one start of ranks cost."""

    network: str
    ranks: int
    latency: float
    bandwidth: float
    library: str


@final
@dataclass
class Timings:
    """Everything of one run of the benchmark."""

    timings: list[Timing] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def heats(self, network: str, ranks: int, nbytes: int) -> list[list[Timing]]:
        """The heats at one size, each with what took turns in it."""
        found: dict[int, list[Timing]] = {}
        for timing in self.timings:
            if (timing.network, timing.ranks, timing.nbytes) == (network, ranks, nbytes):
                found.setdefault(timing.heat, []).append(timing)
        return list(found.values())

    def ratio(
        self, network: str, ranks: int, nbytes: int, ours: Callable[[Timing], bool], theirs: Callable[[Timing], bool]
    ) -> tuple[Timing, Timing] | None:
        """The fastest of ours and of theirs in the last heat that has both; None where there is none."""
        best = None
        for heat in self.heats(network, ranks, nbytes):
            mine, other = [t for t in heat if ours(t)], [t for t in heat if theirs(t)]
            if mine and other:
                best = min(mine, key=lambda t: t.seconds), min(other, key=lambda t: t.seconds)
        return best

    def save(self, folder: Path, figures: Sequence[Figure]) -> list[Path]:
        """Write `exchange.csv` (a line per timing) and `exchange.json` (all samples, the machine, calibrations, figures)."""
        folder.mkdir(parents=True, exist_ok=True)
        lines, everything = folder / "exchange.csv", folder / "exchange.json"
        with lines.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([getattr(timing, column) for column in COLUMNS] for timing in self.timings)
        whole: dict[str, Any] = {"machine": machine(), "left_out": self.left_out}
        parts: dict[str, Iterable[Any]] = {"calibrations": self.calibrations, "figures": figures, "timings": self.timings}
        whole |= {name: [asdict(part) for part in each] for name, each in parts.items()}
        everything.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        return [lines, everything]


def is_ours(timing: Timing) -> bool:
    """Whether it is a collective of the table, and no peer."""
    return timing.collective not in PEERS


def machine() -> dict[str, Any]:
    """Facts of this host that timings depend on."""
    return {
        "cores": cores(),
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
