"""All to all, then all gather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import direct_all_gather
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class AllToAll(Collective):
    """Every rank sums one part of all and sends it to all: ASA of Theano-MPI, with float16 ASA16 (Ma, Mao and Taylor, 2016).

    As few bytes as the ring with two latencies instead of 2(P-1), for P-1 messages at once and another buffer of memory.
    Numbers are written twice however many ranks there are, also those that a rank has itself, and summed in the order of
    the ranks: the bits do not depend on who sums them.
    """

    def steps(self, plan: Plan) -> Steps:
        """Part r of everyone to rank r, which adds them up; its mean to everyone."""
        rank, size = plan.comm.rank, plan.comm.size
        others = [(rank + step) % size for step in range(1, size)]  # each rank begins with another one
        arriving = {other: plan.receive(rank, other, slot=other) for other in reversed(others)}
        leaving = [plan.send(other, other) for other in others]
        plan.set_aside(rank, slot=rank)
        for other in range(size):  # what is there is added while the next one arrives
            if other != rank:
                yield (arriving[other],)
            plan.add(rank, slot=other) if other else plan.replace(rank, slot=other)
        yield tuple(leaving)
        plan.seal(rank)
        yield from direct_all_gather(plan, range(size))

    def roundings(self, size: int) -> int:
        """What a rank brings, and the mean."""
        return 2

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Two phases of P-1 messages of 1/P of the buffer that leave one behind the other (Thakur, Rabenseifner and Gropp, 2005)."""
        return 2 * network.seconds((size - 1) * nbytes / size) if size > 1 else 0.0
