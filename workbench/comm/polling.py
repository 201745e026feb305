"""What a virtual rank pays that asks again and again, so that a loop of polls cannot stop the clock, and when that is a deadlock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, final

from workbench.errors import Deadlock

if TYPE_CHECKING:
    from workbench.comm.node import Node

POLL_SECONDS: Final = 1e-6
"""What a question costs that finds nothing. Each further one in a row, with no work in between, costs twice as much as
the last, or until something comes for the rank: a loop of polls cannot stop the clock, and loses no time."""

LONGEST_POLL: Final = 20  # doublings: about a second

STALLED_POLLS: Final = 1_000
"""So many polls in a row, while all other ranks wait, have returned or do the same, are a deadlock."""


@final
class Polls:
    """What a rank has asked for in vain, how often, since it last got on."""

    __slots__ = ("_node", "_vain")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._vain: dict[Any, int] = {}

    def forget(self) -> None:
        """The rank has got on."""
        if self._vain:
            self._vain.clear()

    def ask(self, what: Any, times: Callable[[], list[float | None]], enough: Callable[[Iterable[bool]], bool], world: list[Node]) -> bool:
        """Whether enough of `times` have come; if not, the clock goes on a little, but never past what comes next for this rank.

        `what`: the requests that are asked for, or words for it. Raises `Deadlock` where no rank of the `world` can bring it any more.
        """
        node, seat, baton = self._node, self._node.seat, self._node.baton
        baton.check()
        baton.let_earlier_go_first(seat)
        node.advance(seat.clock)
        node.following.carry_on()
        found = times()
        if enough(time is not None and time <= seat.clock for time in found):
            return True
        count = self._vain[what] = self._vain.get(what, 0) + 1
        others = baton.coming(seat) if count % STALLED_POLLS == 0 else None
        if others is not None and all(world[rank].dozing for rank in others):
            text = what if isinstance(what, str) else "; ".join(map(repr, what))
            baton.end(lambda: Deadlock(f"rank {seat.rank} polls for what no rank can bring any more: {text}"))
            baton.check()
        coming = [time for time in found if time is not None and time > seat.clock]
        node.doze(min([seat.clock + POLL_SECONDS * 2.0 ** min(count - 1, LONGEST_POLL), *coming]))
        return False
