"""The ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import ring_all_gather, ring_reduce_scatter
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class Ring(Collective):
    """Average around a ring in two passes of chunks (Patarasuk and Yuan, 2009).

    Each rank sends 2(P-1) messages and 2(P-1)/P of the buffer: the least possible, at a latency that grows with P.
    """

    def steps(self, plan: Plan) -> Steps:
        """Reduce-scatter once around, then all-gather once around."""
        everyone = range(plan.comm.size)
        yield from ring_reduce_scatter(plan, everyone, parts=everyone, last=True)
        yield from ring_all_gather(plan, everyone, parts=everyone)

    def roundings(self, size: int) -> int:
        """At every hop of the first pass, and once at the end."""
        return size

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2(P-1) messages of 1/P of the buffer, one after the other (Patarasuk and Yuan, 2009)."""
        return network.ring_seconds(nbytes, size)
