"""What can be made to go wrong on a rank, to see what a strategy makes of it. `FAULTS` is the only list of the kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, final

from workbench.options import Options, option


@dataclass(frozen=True)
class Fault(Options, ABC):
    """What goes wrong on one worker."""

    rank: int = option(0, minimum=0, help="of the worker that has it")

    @property
    @abstractmethod
    def words(self) -> str:
        """What happens to the rank, in words: "slowed 4x"."""


@final
@dataclass(frozen=True)
class Slow(Fault):
    """A straggler: what a worker does by itself (load, compute, update) takes `factor` times as long, and each step `seconds` more.

    Its steps are really that slow: it waits, and computes nothing meanwhile.
    """

    factor: float = option(1.0, minimum=1, maximum=1000, step=0.5, help="how many times as long the worker's own part of a step takes")
    seconds: float = option(0.0, minimum=0, maximum=3600, step=0.05, unit="s", help="what each of its steps takes longer")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor == 1 and self.seconds == 0:
            raise ValueError(
                f"Slow(rank={self.rank}) slows nothing: by itself factor is 1 and seconds is 0; "
                f"give a factor above 1 or seconds above 0, as in Slow(rank={self.rank}, factor=4)"
            )

    @property
    def words(self) -> str:
        """By how much."""
        return "slowed " + " and ".join([f"{self.factor:g}x"] * (self.factor > 1) + [f"by {self.seconds:g} s a step"] * (self.seconds > 0))


FAULTS: Final[dict[str, type[Fault]]] = {"slow": Slow}
