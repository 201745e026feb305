"""Groups of ranks with leaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import ring_all_gather, ring_reduce_scatter, tree_broadcast, tree_reduce
from workbench.collectives.tree import levels
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option


@final
@dataclass(frozen=True)
class Hierarchical(Collective):
    """Sum within a host up to its leader, average around the ring of leaders, send down again (after Jia et al., 2018).

    Of a host with many ranks, one talks to the other hosts: its link carries the buffer once, however many ranks it has.
    """

    group: int | None = option(
        None,
        minimum=1,
        unit="ranks",
        help="so many consecutive ranks act as one (the last may be fewer); "
        "None: those of a host (virtual and emulated ranks have one each: choose a number)",
    )

    def groups(self, comm: Communicator) -> tuple[tuple[int, ...], ...]:
        """Collective. The ranks of each host, or so many at a time; the first of each is its leader."""
        of = comm.hosts() if self.group is None else [rank // self.group for rank in range(comm.size)]
        members: dict[int, list[int]] = {}
        for rank, group in enumerate(of):
            members.setdefault(group, []).append(rank)
        return tuple(map(tuple, members.values()))

    def steps(self, plan: Plan) -> Steps:
        """Up the tree of the group, around the ring of the leaders, down the tree."""
        group = next(group for group in plan.groups if plan.comm.rank in group)
        leaders, everything = [each[0] for each in plan.groups], (0, plan.parts)
        yield from tree_reduce(plan, group, everything)
        if plan.comm.rank == group[0]:
            chunks = range(plan.parts)
            yield from ring_reduce_scatter(plan, leaders, chunks, last=True)
            yield from ring_all_gather(plan, leaders, chunks)
        yield from tree_broadcast(plan, group, everything)

    def roundings(self, size: int) -> int:
        """On every level of a group, at every hop between leaders, and once at the end; never more often than in a ring of all ranks."""
        leaders, largest = self._shape(size)
        return levels(largest) + leaders

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The tree of a group up and down, and the ring of the leaders. By host: as on virtual ranks, which have a host each.

        All links are alike here. The leader of a last group with fewer levels is ready early, and its first chunk shares the port of the
        first leader with that one's own group. That costs the time of the chunk, unless this leader sits out a later level, less a
        latency for each later level. Where the two begin at the same instant, the formula lets the chunk go first.
        """
        leaders, largest = self._shape(size)
        tree, ring = 2 * levels(largest) * network.seconds(nbytes), network.ring_seconds(nbytes, leaders)
        last = size - (leaders - 1) * largest
        later = levels(largest) - levels(last)
        if later and (largest - 1) >> levels(last) == (1 << later) - 1:  # it receives on every level from there on
            tree += max(0.0, nbytes / leaders / network.bandwidth - (later - 1) * network.latency)
        return tree + ring

    def _shape(self, size: int) -> tuple[int, int]:
        """How many groups there are, and ranks in the largest."""
        group = self.group or 1
        return -(-size // group), min(group, size)
