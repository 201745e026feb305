"""Workers mix with random peers, and nobody waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from workbench.comm.base import ANY, Communicator, Request
from workbench.comm.network import Network
from workbench.comm.staging import Staged
from workbench.options import option
from workbench.strategies.base import Exchange, Strategy, Worker

ASK, MODEL = 0, 1  # tags: "send me your model", and the model
LAST = -1  # in place of the step of a question: nobody will ask any more


@final
@dataclass(frozen=True)
class Gossip(Strategy):
    """Pull-gossip SGD: x_i <- (x_i + x_j) / 2 with a random peer j (Jin, Yuan, Iandola and Keutzer, 2016).

    A model is asked for at one step and mixed in at the step at which it has arrived, so no step waits. A peer answers at
    its own step boundaries. Messages per step and rank: one small, one model; nothing grows with the number of ranks.
    """

    mode: Literal["pull"] = option("pull", choices=("pull",), help="who moves: pull asks a random peer for its model")
    every: int = option(1, minimum=1, unit="steps", help="local steps between two pulls")

    @property
    def lockstep(self) -> bool:
        """Workers share no step."""
        return False

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side of one worker."""
        return Pulling(self, comm.channel(0), worker)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """One model per pull; it travels while the worker goes on, so this bounds what a step can lose."""
        return network.seconds(nbytes) / self.every if size > 1 else 0.0


@final
class Pulling(Exchange):
    """One worker's pulls, and its answers to those of others."""

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        self.every = strategy.every
        self.question, self.heard = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.incoming = Staged(worker.arena.spare())
        self.arriving: Request | None = None  # the model this worker waits for,
        self.asking: Request | None = None  # its question on the way,
        self.asked_at = 0  # and the step at which it asked
        self.answers: list[tuple[Staged, Request]] = []  # copies of this model on their way to others
        self.hearing = comm.irecv(self.heard, ANY, ASK) if comm.size > 1 else None

    def after_update(self) -> None:
        """Answer who asked; mix in what has arrived; ask again when it is time. Never waits."""
        if self.hearing is None:
            return
        while self.comm.test(self.hearing):
            self.answer()
        self.staleness = 0.0
        if self.arriving is not None and self.comm.test(self.arriving):
            self.mix()
        if self.arriving is None and (self.worker.step + 1) % self.every == 0:
            self.ask()

    def ask(self) -> None:
        """Ask a random other worker for its model."""
        comm = self.comm
        peer = int(self.worker.rng.integers(comm.size - 1))
        peer += peer >= comm.rank
        self.question[0], self.asked_at = self.worker.step, self.worker.step
        self.arriving = comm.irecv(self.incoming.host, peer, MODEL)
        self.asking = comm.isend(self.question, peer, ASK)

    def answer(self) -> None:
        """Send a copy of this model to whoever has just asked, and listen again."""
        assert self.hearing is not None
        asker = self.hearing.source
        free = next((index for index, (_, sending) in enumerate(self.answers) if self.comm.test(sending)), None)
        copy = Staged(self.worker.arena.spare()) if free is None else self.answers.pop(free)[0]
        copy.tensor.copy_(self.worker.arena.state)
        copy.fetch()
        self.answers.append((copy, self.comm.isend(copy.host, asker, MODEL)))
        self.hearing = self.comm.irecv(self.heard, ANY, ASK)

    def mix(self) -> None:
        """x_i <- (x_i + x_j) / 2, batch-norm statistics included."""
        self.incoming.store()
        self.worker.arena.state.lerp_(self.incoming.tensor, 0.5)
        self.staleness = float(self.worker.step - self.asked_at)
        self.arriving = None

    def finish(self) -> None:
        """Collective. Take in the last pull, then answer until every worker has had its own."""
        if self.hearing is None:
            return
        comm = self.comm
        while self.arriving is not None:
            if comm.wait_any(self.arriving, self.hearing) == 0:
                self.mix()
            else:
                self.answer()
        everyone = comm.iallreduce(np.zeros(1, np.int64))
        while comm.wait_any(everyone, self.hearing) == 1 and self.heard[0] != LAST:
            self.answer()
        # nobody will ask again; a last word around the ring ends the listening (the left one's may be here already)
        comm.wait(everyone, self.hearing, comm.isend(np.full(1, LAST), (comm.rank + 1) % comm.size, ASK))
        comm.wait(*(sending for _, sending in self.answers), *([self.asking] if self.asking is not None else []))
        self.hearing = None
