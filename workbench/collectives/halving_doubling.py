"""Recursive halving and doubling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
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
        rank, size = plan.comm.rank, plan.comm.size
        power = largest_power(size)  # ranks that take part
        folded = size - power  # pairs (0, 1), (2, 3), ... of which the even one hands its part to the odd one
        everything = (0, power)
        if rank < 2 * folded and rank % 2 == 0:
            yield (plan.send(everything, rank + 1),)
            yield (plan.take(everything, rank + 1),)
            return
        if rank < 2 * folded:
            yield (plan.receive(everything, rank - 1),)
            plan.add(everything)

        me = rank // 2 if rank < 2 * folded else rank - folded
        low, high = 0, power  # the chunks whose sum this rank is making
        distance = power // 2
        while distance:  # reduce-scatter: keep one half, hand the other to the partner
            middle = (low + high) // 2
            keep, give = ((low, middle), (middle, high)) if me & distance == 0 else ((middle, high), (low, middle))
            partner = self._rank(me ^ distance, folded)
            yield from plan.merge(keep, partner, give=give, to=partner, last=distance == 1)
            (low, high), distance = keep, distance // 2
        distance = 1
        while distance < power:  # all-gather: the way back
            other = (low - distance, low) if me & distance else (high, high + distance)
            partner = self._rank(me ^ distance, folded)
            arriving = plan.take(other, partner)
            yield arriving, plan.share((low, high), partner)
            low, high, distance = min(low, other[0]), max(high, other[1]), distance * 2

        if rank < 2 * folded:
            yield (plan.share(everything, rank - 1),)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2 log2(P) latencies and 2(P-1)/P of the buffer; fold and unfold add a whole buffer each (Thakur et al., 2005)."""
        power = largest_power(size)
        seconds = 2 * math.log2(power) * network.latency + 2 * (power - 1) / power * nbytes / network.bandwidth
        return seconds + (0 if power == size else 2 * network.seconds(nbytes))

    def roundings(self, size: int) -> int:
        """At every halving, at the fold, and once at the end."""
        power = largest_power(size)
        return power.bit_length() + (power != size)

    def parts(self, size: int) -> int:
        """One for each rank that takes part."""
        return largest_power(size)

    @staticmethod
    def _rank(participant: int, folded: int) -> int:
        return 2 * participant + 1 if participant < folded else participant + folded


def largest_power(size: int) -> int:
    """The largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)
