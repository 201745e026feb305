"""The tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import tree_broadcast, tree_reduce
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class Tree(Collective):
    """Sum pair by pair up a binomial tree, then send the mean down again: `copper` of Theano-MPI (Ma, Mao and Taylor, 2016).

    2 ceil(log2 P) messages, each of the whole buffer: few for small buffers, many bytes for large ones. The last pair
    of `copper` swaps its sums, which saves a message; here one of them makes the mean, so that a wire rounds it once.
    """

    def steps(self, plan: Plan) -> Steps:
        """Up, the mean, down."""
        everyone = range(plan.comm.size)
        yield from tree_reduce(plan, everyone, 0)
        if plan.comm.rank == 0:
            plan.seal(0)
        yield from tree_broadcast(plan, everyone, 0)

    def roundings(self, size: int) -> int:
        """On every level, and once at the end."""
        return levels(size) + 1

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The whole buffer on every level, up and down (Thakur, Rabenseifner and Gropp, 2005)."""
        return 2 * levels(size) * network.seconds(nbytes)

    def parts(self, size: int) -> int:
        """One: all travels together."""
        return 1


def levels(size: int) -> int:
    """Of a binomial tree over so many ranks: ceil(log2 P)."""
    return (size - 1).bit_length()
