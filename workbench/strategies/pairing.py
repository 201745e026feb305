"""Two ranks average: both move to the middle, and what each has learned meanwhile is kept."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from workbench.comm.base import Communicator, Request
from workbench.comm.staging import Staged
from workbench.strategies.asking import Asking
from workbench.strategies.base import Worker
from workbench.strategies.gossiping import BACK, MODEL, REPLY, WORD

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip

MOVED, CROSSED = np.zeros(1), np.ones(1)
"""Replies: a difference follows; or both have asked at the same time, and each knows enough."""
PARTS: Final = 4  # of an exchange: its word and its model have gone, the reply has come, this rank has moved


@final
class Pairing(Asking):
    """x_i, x_j <- (x_i + x_j) / 2 (AD-PSGD; Lian, Zhang, Zhang and Liu, 2018).

    Rank i sends x_i; j moves by d = (x_i - x_j) / 2 and returns d; i moves by -d when that has come. So x_i + x_j stays what it is, whatever
    gradients both have applied meanwhile. Two ranks that have asked each other at the same time both know x_i and x_j as they were sent: each
    moves by half their difference, once. A word says how many questions of its receiver have been heard, which tells the two cases
    apart; so no rank need be active or passive. What is not trained (batch-norm statistics) becomes the mean of what both had.

    When a peer dies in the middle of an exchange, the one that is left may have moved or not.
    Messages per exchange: a word and a model there, a reply and a difference back.
    """

    skipped = "pairs skipped"

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        arena = worker.arena
        self.trained = slice(arena.parameters.numel())
        self.others = slice(arena.parameters.numel(), None)
        self.question, self.incoming = Staged(arena.spare()), Staged(arena.spare())
        self._asking, self._reply = np.zeros(2), np.zeros(1)
        self._asked: Counter[int] = Counter()
        self._heard: Counter[int] = Counter()
        self._peer = -1
        self._moves = False  # whether what this rank has asked for will move it, as far as it knows now

    def ask(self, peer: int) -> None:
        """Send this model as it is now."""
        comm = self.comm
        self._peer, self.asked_at, self.parts, self._moves = peer, self.worker.step, PARTS, True
        self._asked[peer] += 1
        self._asking[:] = self.worker.step, self._heard[peer]
        self.question.tensor.copy_(self.worker.arena.state)
        self.question.fetch()
        self.expect(comm.irecv(self._reply, peer, REPLY), self._replied)
        self.expect(comm.isend(self._asking, peer, WORD), self.over)
        self.expect(comm.isend(self.question.host, peer, MODEL), self.over)

    def heard(self, peer: int, step: int, number: float) -> None:
        """Its model follows; whether this rank's own question crosses it shows here."""
        self._heard[peer] += 1
        crossing = self._moves and peer == self._peer and number < self._asked[peer]
        if crossing:
            self._moves = False  # but what comes now will
        copy = self.spare()

        def came(receiving: Request) -> None:
            if crossing:
                self.over(receiving)
            if receiving.lost:
                self.done_with(copy)
                return
            copy.store()
            self.move(self.halved(copy.tensor, self.question.tensor if crossing else self.worker.arena.state))
            self.aged(self.worker.step - (self.asked_at if crossing else step))
            self.expect(self.comm.isend(CROSSED if crossing else MOVED, peer, REPLY))
            if crossing:
                self.done_with(copy)
            else:
                self.send(copy, peer, BACK)

        self.expect(self.comm.irecv(copy.host, peer, MODEL), came)

    def halved(self, theirs: Any, mine: Any) -> Any:
        """In place of what has come: of what is trained half the difference, of what is not the mean."""
        theirs[self.trained].sub_(mine[self.trained]).div_(2)
        theirs[self.others].add_(mine[self.others]).div_(2)
        return theirs

    def move(self, halved: Any, sign: int = 1) -> None:
        """Towards the middle."""
        state = self.worker.arena.state
        state[self.trained].add_(halved[self.trained], alpha=sign)
        state[self.others].copy_(halved[self.others])

    def _replied(self, receiving: Request) -> None:
        self.over(receiving)
        if receiving.lost:
            if self._moves:
                self._settle(receiving)
        elif not self._reply[0]:
            self.expect(self.comm.irecv(self.incoming.host, self._peer, BACK), self._returned)

    def _returned(self, receiving: Request) -> None:
        if not receiving.lost:
            self.incoming.store()
            self.move(self.incoming.tensor, sign=-1)
            self.aged(self.worker.step - self.asked_at)
        self._settle(receiving)

    def _settle(self, request: Request) -> None:
        """Nothing that it has asked for will move this rank any more."""
        self._moves = False
        self.over(request)
