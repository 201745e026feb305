"""Recursive halving and doubling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from workbench.collectives.base import Collective, Plan, Steps
from workbench.comm.base import Array
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class HalvingDoubling(Collective):
    """Average by exchanging halves, quarters, ... with partners at distance P/2, P/4, ..., then back (Rabenseifner, 2004).

    2 log2(P) messages and 2(P-1)/P of the buffer: as few bytes as the ring in fewer messages. Where P is no power of
    two, the first ranks fold in pairs before and unfold after, which costs the whole buffer twice more
    (Thakur, Rabenseifner and Gropp, 2005).
    """

    def steps(self, plan: Plan) -> Steps:
        """Fold the odd ones in, halve, take the mean, double, unfold."""
        comm, rank = plan.comm, plan.comm.rank
        power = self.parts(comm.size)  # ranks that take part, a power of two
        folded = comm.size - power  # pairs (0, 1), (2, 3), ... of which the even one hands its part to the odd one
        if rank < 2 * folded and rank % 2 == 0:
            yield (comm.isend(plan.buffer, rank + 1),)
            yield (comm.irecv(plan.buffer, rank + 1),)
            return
        if rank < 2 * folded:
            yield (comm.irecv(plan.work, rank - 1),)
            np.add(plan.buffer, plan.work, out=plan.buffer)

        me = rank // 2 if rank < 2 * folded else rank - folded
        low, high = 0, power  # the chunks whose sum this rank is making
        distance = power // 2
        while distance:  # reduce-scatter: keep one half, hand the other to the partner
            middle = (low + high) // 2
            keep, give = ((low, middle), (middle, high)) if me & distance == 0 else ((middle, high), (low, middle))
            mine, partner = span(plan, *keep), self._rank(me ^ distance, folded)
            arrived = plan.work[: mine.size]
            arriving = comm.irecv(arrived, partner)
            yield arriving, comm.isend(span(plan, *give), partner)
            np.add(mine, arrived, out=mine)
            (low, high), distance = keep, distance // 2
        plan.mean(span(plan, low, high))
        distance = 1
        while distance < power:  # all-gather: the way back
            other = (low - distance, low) if me & distance else (high, high + distance)
            partner = self._rank(me ^ distance, folded)
            arriving = comm.irecv(span(plan, *other), partner)
            yield arriving, comm.isend(span(plan, low, high), partner)
            low, high, distance = min(low, other[0]), max(high, other[1]), distance * 2

        if rank < 2 * folded:
            yield (comm.isend(plan.buffer, rank - 1),)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2 log2(P) latencies and 2(P-1)/P of the buffer; fold and unfold add a whole buffer each (Thakur et al., 2005)."""
        power = self.parts(size)
        seconds = 2 * math.log2(power) * network.latency + 2 * (power - 1) / power * nbytes / network.bandwidth
        return seconds + (0 if power == size else 2 * network.seconds(nbytes))

    def parts(self, size: int) -> int:
        """The largest power of two among the ranks."""
        return 1 << (size.bit_length() - 1)

    def work(self, size: int, length: int) -> int:
        """Half the buffer; all of it where ranks must fold."""
        return length if self.parts(size) != size else length // 2 + self.parts(size)

    @staticmethod
    def _rank(participant: int, folded: int) -> int:
        return 2 * participant + 1 if participant < folded else participant + folded


def span(plan: Plan, low: int, high: int) -> Array:
    """Chunks `low` to `high` of the buffer as one view."""
    length, parts = plan.buffer.size, len(plan.chunks)
    share, longer = divmod(length, parts)  # as numpy.array_split cuts: the first `longer` chunks have one more
    return plan.buffer[low * share + min(low, longer) : high * share + min(high, longer)]
