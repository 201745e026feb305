"""A rank sends a peer its model, unless that peer has not taken the last one yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from workbench.comm.base import Array, Communicator, Request
from workbench.strategies.base import Worker
from workbench.strategies.gossiping import MODEL, REPLY, WORD, Gossiping

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip

TAKEN: Final = np.zeros(0, np.uint8)
"""The content of an acknowledgement."""


class Pushing(Gossiping):
    """Pushes, and what is done with those of others; how they are mixed in is told by `share` and `mix`.

    A peer says when it has mixed a model in: the end of a send tells only that MPI has taken the message. Messages per push: a word and a
    model there, an acknowledgement back.
    """

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self._untaken: set[int] = set()
        self._words: list[Array] = []

    def share(self) -> float:
        """The weight that goes with a model that is being pushed."""
        raise NotImplementedError

    def mix(self, model: Any, weight: float) -> None:
        """Mix a model in that was pushed to this rank."""
        raise NotImplementedError

    @property
    def under_way(self) -> bool:
        """Until every push is mixed in."""
        return bool(self._untaken)

    def talk(self, peer: int, until: float) -> None:
        """Push, unless the peer has not taken the last one; with patience wait for that."""
        self.patient(lambda: peer in self._untaken, until)
        if peer in self._untaken:
            self.counts["pushes skipped"] += 1
        elif peer not in self.comm.lost:
            self.push(peer)

    def push(self, peer: int) -> None:
        """Send this model as it is now."""
        word = self._words.pop() if self._words else np.zeros(2)
        word[:] = self.worker.step, self.share()
        copy = self.spare()
        copy.tensor.copy_(self.worker.arena.state)
        self._untaken.add(peer)
        self.expect(self.comm.irecv(TAKEN, peer, REPLY), lambda taken: self._untaken.remove(peer))
        self.expect(self.comm.isend(word, peer, WORD), lambda sent: self._words.append(word))
        self.send(copy, peer, MODEL)

    def heard(self, peer: int, step: int, number: float) -> None:
        """A model follows: mix it in when it is there, and say so."""
        copy = self.spare()

        def came(receiving: Request) -> None:
            if not receiving.lost:
                copy.store()
                self.mix(copy.tensor, number)
                self.aged(self.worker.step - step)
                self.expect(self.comm.isend(TAKEN, peer, REPLY))
            self.done_with(copy)

        self.expect(self.comm.irecv(copy.host, peer, MODEL), came)


@final
class PushingAlike(Pushing):
    """x_i <- the mean of x_i and all the models that have come when this rank looks (Jin, Yuan, Iandola and Keutzer, 2016)."""

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self._mixed = 0

    def look(self, until: float | None = None) -> bool:
        """What is there at one look is one mean."""
        self._mixed = 0
        return super().look(until)

    def share(self) -> float:
        """All count the same."""
        return 1.0

    def mix(self, model: Any, weight: float) -> None:
        """A running mean."""
        self._mixed += 1
        self.worker.arena.state.lerp_(model, 1 / (1 + self._mixed))


@final
class PushingWeights(Pushing):
    """Push-sum: half of a rank's weight goes with its model, and x_i <- (a_i x_i + a_j x_j) / (a_i + a_j), a_i <- a_i + a_j.

    Weights begin at 1/W; those of the ranks and of what is on the way are 1 in sum (that of a rank that dies is gone). So sum a_i x_i
    changes by gradients alone: x_i <- x_i - eta g changes it by a_i eta g (GOSGD; Blot, Picard, Cord and Thome, 2016). In stochastic
    gradient push (Assran, Loizou, Ballas and Rabbat, 2019) the numerator W a_i x_i moves by eta g, whatever the weight: x_i moves by
    eta g / (W a_i).
    """

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self.numerator = strategy.gradient == "numerator"
        self.weight = 1 / comm.size

    def update(self) -> None:
        """Of the numerator: with the rate over W a_i."""
        worker = self.worker
        scale = self.comm.size * self.weight if self.numerator else 1.0
        worker.optimizer.step(worker.arena, worker.learning_rate() / scale)

    def share(self) -> float:
        """a_i <- a_i / 2; the other half goes."""
        self.weight /= 2
        return self.weight

    def mix(self, model: Any, weight: float) -> None:
        """The weighted mean."""
        self.weight += weight
        self.worker.arena.state.lerp_(model, weight / self.weight)
