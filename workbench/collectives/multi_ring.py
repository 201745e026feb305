"""Several rings at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import ring_all_gather
from workbench.comm.network import Network
from workbench.options import option


@final
@dataclass(frozen=True)
class MultiRing(Collective):
    """Average slices of the buffer around rings of their own, every other one the other way around (MXNET-MPI: Mamidala et al., 2018).

    The bytes of one ring. While one ring waits for a latency, or adds up, the messages of the others travel; rings in
    both directions use both links of a rank where it has one to each neighbour.
    """

    rings: int = option(2, minimum=1, maximum=32, help="rings at once, each with a slice of the buffer")

    def steps(self, plan: Plan) -> Steps:
        """The rings by turns."""
        yield from by_turns(self._around(plan, ring) for ring in range(self.rings))

    def roundings(self, size: int) -> int:
        """As in one ring."""
        return size

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2(P-1) hops, each as long as a rank's link is busy with all rings, or as one message takes where that is longer (derived)."""
        hops, message = 2 * (size - 1), nbytes / size / self.rings / network.bandwidth
        turn = max(network.latency + message, self.rings * message)
        return network.latency + self.rings * message + (hops - 1) * turn if hops else 0.0

    def parts(self, size: int) -> int:
        """As many for each ring as it has ranks."""
        return self.rings * size

    def _around(self, plan: Plan, ring: int) -> Steps:
        """One ring over its own slice, with a slot and a tag of its own."""
        size = plan.comm.size
        ranks = range(size) if ring % 2 == 0 else range(size - 1, -1, -1)
        parts = range(ring * size, (ring + 1) * size)
        place = ranks.index(plan.comm.rank)
        right, left = ranks[(place + 1) % size], ranks[place - 1]
        for hop in range(size - 1):  # in whole messages: rings that take turns must be at the same hop on all ranks
            mine = parts[(place - hop - 1) % size]
            arriving = plan.receive(mine, left, slot=ring, tag=ring)
            yield arriving, plan.send(parts[(place - hop) % size], right, tag=ring)
            plan.add(mine, slot=ring)
        plan.seal(parts[(place + 1) % size])
        yield from ring_all_gather(plan, ranks, parts, tag=ring)


def by_turns(several: Iterable[Steps]) -> Steps:
    """Several at once: each goes on in its turn, and what it posts travels while the others have theirs."""
    under_way = deque((steps, next(steps)) for steps in several)
    while under_way:
        steps, requests = under_way.popleft()
        yield requests
        following = next(steps, None)
        if following is not None:
            under_way.append((steps, following))
