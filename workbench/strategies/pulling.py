"""A rank asks a peer for its model and mixes it in when it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from workbench.comm.base import Communicator, Request
from workbench.comm.staging import Staged
from workbench.strategies.asking import Asking
from workbench.strategies.base import Worker
from workbench.strategies.gossiping import MODEL, WORD

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip


@final
class Pulling(Asking):
    """x_i <- (x_i + x_j) / 2 (Jin, Yuan, Iandola and Keutzer, 2016). Only who asks moves.

    Messages per exchange: a word there, a model back.
    """

    skipped = "pulls skipped"

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self.incoming = Staged(worker.arena.spare())
        self.question = np.zeros(2)

    def ask(self, peer: int) -> None:
        """Say that this rank wants to have its model."""
        self.question[0] = self.asked_at = self.worker.step
        self.parts = 2  # it, and the model
        self.expect(self.comm.irecv(self.incoming.host, peer, MODEL), self.came)
        self.expect(self.comm.isend(self.question, peer, WORD), self.over)

    def heard(self, peer: int, step: int, number: float) -> None:
        """Answer with a copy of this model as it is now."""
        copy = self.spare()
        copy.tensor.copy_(self.worker.arena.state)
        self.send(copy, peer, MODEL)

    def came(self, receiving: Request) -> None:
        """Mix it in."""
        self.over(receiving)
        if not receiving.lost:
            self.incoming.store()
            self.mix()

    def mix(self) -> None:
        """x_i <- (x_i + x_j) / 2, batch-norm statistics included."""
        self.worker.arena.state.lerp_(self.incoming.tensor, 0.5)
        self.aged(self.worker.step - self.asked_at)
