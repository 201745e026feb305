"""A rank that asks one peer at a time, and asks nobody else before that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from workbench.comm.base import Communicator, Request
from workbench.strategies.base import Worker
from workbench.strategies.gossiping import Gossiping

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip


class Asking(Gossiping):
    """What pulls and pairs share. A mode says how it `ask`s a peer: in how many parts, each of which is `over` once."""

    skipped: ClassVar[str]
    """What is counted where another question is still under way."""

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self.parts = self.asked_at = 0  # of the last question: what is under way, and the step at which it was asked

    def ask(self, peer: int) -> None:
        """Send a question; set `parts` and `asked_at`."""
        raise NotImplementedError

    @property
    def under_way(self) -> bool:
        """Until all parts of the last question are over."""
        return self.parts > 0

    def talk(self, peer: int, until: float) -> None:
        """Ask, unless another question is under way; with patience wait for it."""
        self.patient(lambda: self.under_way, until)
        if self.under_way:
            self.counts[self.skipped] += 1
        elif peer not in self.comm.lost:
            self.ask(peer)
            self.patient(lambda: self.under_way, until)

    def over(self, request: Request) -> None:
        """One part is."""
        self.parts -= 1
