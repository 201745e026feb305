"""The passes that algorithms are made of: around a ring, up and down a tree, straight from the owners of parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.collectives.base import Part, Plan, Steps

# around a ring


def ring_reduce_scatter(plan: Plan, ranks: Sequence[int], parts: Sequence[Part], last: bool = False) -> Steps:
    """Once around the ring of `ranks`: the one at place i ends with their sum of `parts[i + 1]`. The `last` pass to add anything seals it."""
    size, place = len(ranks), ranks.index(plan.comm.rank)
    right, left = ranks[(place + 1) % size], ranks[place - 1]
    for hop in range(size - 1):
        mine, give = parts[(place - hop - 1) % size], parts[(place - hop) % size]
        yield from plan.merge(mine, left, give=give, to=right, last=last and hop == size - 2)
    if last and size == 1:
        plan.seal(parts[0])


def ring_all_gather(plan: Plan, ranks: Sequence[int], parts: Sequence[Part], tag: int = 0) -> Steps:
    """Once around the ring of `ranks`, of which the one at place i holds the mean of `parts[i + 1]`: all end with all parts."""
    size, place = len(ranks), ranks.index(plan.comm.rank)
    right, left = ranks[(place + 1) % size], ranks[place - 1]
    for hop in range(size - 1):
        arriving = plan.take(parts[(place - hop) % size], left, tag)
        yield arriving, plan.share(parts[(place - hop + 1) % size], right, tag)


# up and down a tree


def tree_reduce(plan: Plan, ranks: Sequence[int], part: Part) -> Steps:
    """Pair by pair up a binomial tree: the first of `ranks` ends with their sum of `part`, after ceil(log2 P) messages."""
    for partner, gives in _meetings(ranks, plan.comm.rank):
        if gives:
            yield (plan.send(part, partner),)
        else:
            yield (plan.receive(part, partner),)
            plan.add(part)


def tree_broadcast(plan: Plan, ranks: Sequence[int], part: Part) -> Steps:
    """The way of `tree_reduce` back: from the first of `ranks`, which holds the mean of `part`, to all."""
    for partner, gave in reversed(list(_meetings(ranks, plan.comm.rank))):
        yield (plan.take(part, partner) if gave else plan.share(part, partner),)


def _meetings(ranks: Sequence[int], rank: int) -> Iterator[tuple[int, bool]]:
    """Whom a rank meets on its way up, and whether it hands over its sum there and is done.

    Where they are odd, the first sits out, which never hands over anything: so nobody sends before the others of its
    round do, and no two messages meet at one rank.
    """
    while len(ranks) > 1:
        odd, place = len(ranks) % 2, ranks.index(rank)
        if place >= odd:
            gives = (place - odd) % 2 == 1
            yield ranks[place - 1 if gives else place + 1], gives
            if gives:
                return
        ranks = [*ranks[:odd], *ranks[odd::2]]


# straight from the owners of parts


def direct_all_gather(plan: Plan, owners: Sequence[int]) -> Steps:
    """The rank `owners[i]` sends the mean of its part i straight to all, beginning with the rank after itself: no rank gets two at once."""
    rank, size = plan.comm.rank, plan.comm.size
    nearest = sorted((owner for owner in owners if owner != rank), key=lambda owner: (rank - owner) % size)  # whose part comes first
    taking = [(owners.index(owner), plan.take(owners.index(owner), owner)) for owner in nearest]
    leaving = [plan.share(owners.index(rank), (rank + step) % size) for step in range(1, size)] if rank in owners else []
    for part, arriving in taking:
        yield (arriving,)
        plan.open(part)
    yield tuple(leaving)
