"""Who talks to whom: the ranks that one may talk to in a round. A user's own function does as well as one of the table."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

import numpy as np

from workbench.callables import check_path, load_path
from workbench.options import shown, unknown_name

Topology = Callable[[int, int, int], Sequence[int]]


def anyone(index: int, workers: int, round: int) -> Sequence[int]:
    """Every other rank: gossip as of Jin et al. (2016) and Blot et al. (2016)."""
    return range(index + 1, index + workers)


def ring(index: int, workers: int, round: int) -> Sequence[int]:
    """The one to the left and the one to the right."""
    return index - 1, index + 1


def torus(index: int, workers: int, round: int) -> Sequence[int]:
    """The four neighbours on a grid of the most square factors, whose edges are joined; of a prime number of ranks a ring."""
    rows = next(rows for rows in range(math.isqrt(workers), 0, -1) if workers % rows == 0)
    columns = workers // rows
    row, column = divmod(index, columns)
    beside = {row * columns + (column + hop) % columns for hop in (-1, 1)}
    above = {(row + hop) % rows * columns + column for hop in (-1, 1)}
    return sorted((beside | above) - {index})


def exponential(index: int, workers: int, round: int) -> Sequence[int]:
    """The rank 2^k to the right, k = 0, 1, ... in turn: news reaches everyone in ceil(log2 W) rounds (Assran et al., 2019)."""
    return (index + 2 ** (round % (workers - 1).bit_length()),)


TOPOLOGIES: Final[dict[str, Topology]] = {"random": anyone, "ring": ring, "torus": torus, "exponential": exponential}
"""Name -> (index, workers, round) -> the peers of a rank in a round, modulo the number of workers. For two workers or more."""


def check(name: str) -> None:
    """ValueError unless it is a name of the table or reads "package.module:callable"."""
    if ":" in name:
        check_path("topology", name)
    elif name not in TOPOLOGIES:
        raise ValueError(unknown_name("topology", name, TOPOLOGIES) + ', or "package.module:callable": (index, workers, round) -> peers')


@final
class Neighbours:
    """The peers of one rank. The user's function is imported when this is made; what it gives is checked whenever it is asked."""

    def __init__(self, name: str, index: int, workers: int) -> None:
        self.name, self.index, self.workers = name, index, workers
        given = load_path("topology", name) if ":" in name else None
        self._peers: Topology = TOPOLOGIES[name] if given is None else lambda *where: self._checked(given(*where), where[-1])

    def draw(self, round: int, rng: np.random.Generator, without: frozenset[int]) -> int | None:
        """One of the peers of this round, each as likely, but none of `without`; None if there is none."""
        peers = self._peers(self.index, self.workers, round)
        if without:
            peers = [peer for peer in peers if peer % self.workers not in without]
        return peers[int(rng.integers(len(peers)))] % self.workers if peers else None

    def _checked(self, given: Any, round: int) -> Sequence[int]:
        try:
            peers = [operator.index(peer) for peer in (given if isinstance(given, Iterable) else (given,))]
        except TypeError:
            peers = [self.index]
        if any(peer % self.workers == self.index for peer in peers) or isinstance(given, bool):
            raise ValueError(
                f"topology {self.name!r} gave {shown(given)} for index {self.index} of {self.workers} workers in round {round}; it must give the "
                f"index of another worker, a whole number modulo {self.workers}, or several of them, or none: []"
            )
        return peers
