"""The ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class Ring(Collective):
    """Average around a ring in two passes of chunks (Patarasuk and Yuan, 2009).

    Each rank sends 2(P-1) messages and 2(P-1)/P of the buffer: the least possible, at a latency that grows with P.
    """

    def steps(self, plan: Plan) -> Steps:
        """Reduce-scatter once around, then all-gather once around."""
        size, rank = plan.comm.size, plan.comm.rank
        right, left = (rank + 1) % size, (rank - 1) % size
        for hop in range(size - 1):  # reduce-scatter: the sum of chunk r+1 ends on rank r
            yield from plan.merge((rank - hop - 1) % size, left, give=(rank - hop) % size, to=right, last=hop == size - 2)
        for hop in range(size - 1):  # all-gather: every chunk's mean goes on around
            arriving = plan.take((rank - hop) % size, left)
            yield arriving, plan.share((rank - hop + 1) % size, right)

    def bytes_sent(self, nbytes: int, size: int) -> int:
        """Every chunk goes around twice."""
        return 2 * (size - 1) * nbytes

    def roundings(self, size: int) -> int:
        """At every hop of the first pass, and once at the end."""
        return size

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2(P-1) messages of 1/P of the buffer, one after the other (Patarasuk and Yuan, 2009)."""
        return 2 * (size - 1) * network.seconds(nbytes / size)
