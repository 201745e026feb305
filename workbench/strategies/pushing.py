"""A rank sends a peer its model, unless that peer has not taken the last one yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from workbench.comm.base import Array, Communicator, Request
from workbench.strategies.base import Worker
from workbench.strategies.gossiping import BACK, MODEL, REPLY, WORD, Gossiping, Then

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip


NOTHING: Final = 1e-100
"""A weight so small goes to zero, by which nothing can be divided."""
LEAST: Final = 1 / 4
"""Of a fair share 1/W: what a rank that moves its numerator keeps of its weight."""


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
        """The weight that goes with a model of this rank."""
        raise NotImplementedError

    def mix(self, model: Any, weight: float) -> None:
        """Mix in what another rank has sent."""
        raise NotImplementedError

    @property
    def pushes_back(self) -> bool:
        """Whether a model of this rank goes back with the acknowledgement."""
        return False

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
        """Send this model as it is now, with a share of the weight."""
        answer = self._spare_word()
        self._untaken.add(peer)
        self.expect(self.comm.irecv(answer, peer, REPLY), lambda receiving: self._taken(peer, answer, receiving))
        self._say(peer, WORD, self.worker.step, self.share())
        self._send_model(peer, MODEL)

    def heard(self, peer: int, step: int, number: float) -> None:
        """A model follows: mix it in when it is there, and say so."""

        def mixed(receiving: Request) -> None:
            if receiving.lost:
                return
            self.aged(self.worker.step - step)
            if self.pushes_back:
                self.push_back(peer)
            else:
                self._say(peer, REPLY, 0, 0.0)

        self._bring(peer, MODEL, number, mixed)

    def push_back(self, peer: int) -> None:
        """Acknowledge with a model of this rank."""
        self._say(peer, REPLY, 1, self.share())
        self._send_model(peer, BACK)

    def _taken(self, peer: int, answer: Array, receiving: Request) -> None:
        follows, weight = answer
        self._words.append(answer)
        if follows and not receiving.lost:
            self._bring(peer, BACK, float(weight), lambda receiving: self._untaken.remove(peer))
        else:
            self._untaken.remove(peer)

    def _bring(self, peer: int, tag: int, weight: float, then: Then) -> None:
        copy = self.spare()

        def came(receiving: Request) -> None:
            if not receiving.lost:
                copy.store()
                self.mix(copy.tensor, weight)
            self.done_with(copy)
            then(receiving)

        self.expect(self.comm.irecv(copy.host, peer, tag), came)

    def _send_model(self, peer: int, tag: int) -> None:
        copy = self.spare()
        copy.tensor.copy_(self.worker.arena.state)
        self.send(copy, peer, tag)

    def _say(self, peer: int, tag: int, first: int, second: float) -> None:
        word = self._spare_word()
        word[:] = first, second
        self.expect(self.comm.isend(word, peer, tag), lambda sent: self._words.append(word))

    def _spare_word(self) -> Array:
        return self._words.pop() if self._words else np.zeros(2)


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

    Gradient push differs from theirs in two things. Their ranks wait for each other, which bounds the weights from below; here a rank could push
    nearly all of its weight away before it runs again. So a push takes no more along than leaves 1/(4W): no step is longer than 4 eta g, sums and
    means stay as they are. And once a rank knows of a death, by which weights of a sum that nobody knows are left, it goes on as in
    GOSGD: its steps are eta g, and its pushes take half.

    A rank that has ended pushes no more: whoever pushes to it, be it without weight, gets half of its weight back, with its model. Otherwise
    the last ranks to train would be left with no weight.
    """

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(strategy, comm, worker)
        self.numerator = strategy.gradient == "numerator"
        self.weight = 1 / comm.size

    @property
    def moves_numerator(self) -> bool:
        """Whether the gradients of this rank count the same whatever its weight."""
        return self.numerator and not self.comm.lost

    def update(self) -> None:
        """Of the numerator: with the rate over W a_i."""
        worker = self.worker
        scale = self.comm.size * self.weight if self.moves_numerator else 1.0
        worker.optimizer.step(worker.arena, worker.learning_rate() / scale)

    @property
    def pushes_back(self) -> bool:
        """Once it has ended."""
        return self.ended

    def share(self) -> float:
        """a_i <- a_i / 2, or the least that this rank takes steps with; the rest goes."""
        least = LEAST / self.comm.size if self.moves_numerator and not self.ended else 0.0
        before, self.weight = self.weight, max(self.weight / 2, least)
        if self.weight < NOTHING:
            raise ValueError(
                f"the weight of worker {self.worker.index} has fallen to {self.weight:.0e}: in this topology next to nothing comes back to it; "
                "every worker must be reachable from every other one"
            )
        if self.weight == before:
            self.counts["pushes without weight"] += 1
        return before - self.weight

    def mix(self, model: Any, weight: float) -> None:
        """The weighted mean."""
        self.weight += weight
        self.worker.arena.state.lerp_(model, weight / self.weight)
