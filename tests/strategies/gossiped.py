"""The rules of gossip in NumPy. Each is told who does what and when; values are its own, and are held against those of the exchanges.

Virtual ranks run one at a time, so one oracle for all of them sees everything in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from tests.strategies.world import RATE, gradient_of, start_of

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


def near(given: Any, expected: Any) -> bool:
    return np.allclose(np.asarray(given), expected, rtol=1e-4, atol=1e-5)


class Oracle:
    """All ranks' parameters (12,), from their own starts."""

    def __init__(self, size: int, gradients: bool = True) -> None:
        self.size = size
        self.rate = RATE if gradients else 0.0
        self.x: list[FloatArray] = [start_of(rank).astype(np.float64) for rank in range(size)]
        self.exchanges: dict[int, Any] = {}
        self.mixed = [0] * size
        self.begun = [0] * size

    def watch(self, exchange: Any) -> Any:
        """Put ears on one rank's exchange."""
        rank = exchange.comm.rank
        self.exchanges[rank] = exchange
        self.hear(exchange, rank)
        update, gradients = exchange.update, exchange.worker.arena.gradients

        def updating() -> None:
            gradients.mul_(float(self.rate > 0))
            update()
            self.updated(rank, self.rate * gradient_of(rank, exchange.worker.step))
            self.check(rank)

        exchange.update = updating
        return exchange

    def hear(self, exchange: Any, rank: int) -> None:
        raise NotImplementedError

    def updated(self, rank: int, step: FloatArray) -> None:
        self.x[rank] = self.x[rank] - step

    def check(self, rank: int) -> None:
        assert near(self.exchanges[rank].worker.arena.state, self.x[rank])

    def over(self) -> None:
        """Nothing is lost."""
        for rank in range(self.size):
            self.check(rank)

    @staticmethod
    def before(owner: Any, name: str, then: Callable[..., None]) -> None:
        done = getattr(owner, name)

        def doing(*given: Any, **named: Any) -> Any:
            then(*given, **named)
            return done(*given, **named)

        setattr(owner, name, doing)

    @staticmethod
    def after(owner: Any, name: str, then: Callable[..., None]) -> None:
        done = getattr(owner, name)

        def doing(*given: Any, **named: Any) -> Any:
            result = done(*given, **named)
            then(*given, **named)
            return result

        setattr(owner, name, doing)


@final
class Pull(Oracle):
    """x_i <- (x_i + x_j) / 2, x_j as it was when j answered."""

    def __init__(self, size: int, gradients: bool = True) -> None:
        super().__init__(size, gradients)
        self.answers: dict[int, list[FloatArray]] = {rank: [] for rank in range(size)}
        self.peer: dict[int, int] = {}

    def hear(self, exchange: Any, rank: int) -> None:
        def ask(peer: int) -> None:
            assert rank not in self.peer, "one question at a time"
            assert peer != rank
            self.peer[rank] = peer
            self.begun[rank] += 1

        def answer(peer: int, step: int, number: float) -> None:
            assert self.peer[peer] == rank
            self.answers[peer].append(self.x[rank])

        def mix() -> None:
            del self.peer[rank]
            self.x[rank] = (self.x[rank] + self.answers[rank].pop()) / 2
            self.mixed[rank] += 1
            self.check(rank)

        self.before(exchange, "ask", ask)
        self.before(exchange, "heard", answer)
        self.after(exchange, "mix", mix)

    def over(self) -> None:
        super().over()
        assert self.mixed == self.begun
        assert not any(self.answers.values())


class Pushed(Oracle):
    """What is on its way: (sender, receiver, x_j, its weight)."""

    def __init__(self, size: int, gradients: bool = True) -> None:
        super().__init__(size, gradients)
        self.sent: list[tuple[int, int, FloatArray, float]] = []

    def arrived(self, rank: int, model: Any) -> tuple[FloatArray, float]:
        """What came is, whole, what exactly one rank has sent."""
        (index,) = (index for index, (_, peer, x, _) in enumerate(self.sent) if peer == rank and near(model, x))
        sender, _, x, weight = self.sent.pop(index)
        self.mixed[sender] += 1
        return x, weight

    def put(self, rank: int, peer: int, weight: float) -> None:
        if not self.exchanges[rank].ended:
            assert (rank, peer) not in [sent[:2] for sent in self.sent], "a peer that has not taken the last one is left alone"
        assert peer != rank
        self.sent.append((rank, peer, self.x[rank], weight))
        self.begun[rank] += 1

    def over(self) -> None:
        super().over()
        assert self.mixed == self.begun
        assert not self.sent


@final
class Push(Pushed):
    """x_i <- the mean of x_i and all that have come at one look."""

    largest = 0

    def hear(self, exchange: Any, rank: int) -> None:
        batch: list[FloatArray] = []

        def mean(*until: Any) -> None:
            self.x[rank] = np.mean([self.x[rank], *batch], axis=0)
            self.largest = max(self.largest, len(batch))
            batch.clear()
            self.check(rank)

        self.before(exchange, "push", lambda peer: self.put(rank, peer, 1.0))
        self.before(exchange, "mix", lambda model, weight: batch.append(self.arrived(rank, model)[0]))
        self.after(exchange, "look", mean)


@final
class PushSum(Pushed):
    """x_i <- (a_i x_i + a_j x_j) / (a_i + a_j). Of the numerator a gradient moves W a_i x_i by eta g, and a_i >= 1/(4W) while i trains."""

    def __init__(self, size: int, gradients: bool = True, numerator: bool = False) -> None:
        super().__init__(size, gradients)
        self.numerator = numerator
        self.a = [1 / size] * size
        self.least = 1 / size
        """The smallest weight that a rank has taken a step with."""
        self.withheld = [0] * size
        self.total = np.sum(self.x, axis=0) / size

    def hear(self, exchange: Any, rank: int) -> None:
        def push(peer: int) -> None:
            half = self.a[rank] / 2
            goes = min(half, self.a[rank] - 1 / (4 * self.size)) if self.numerator and not exchange.ended else half
            self.withheld[rank] += goes == 0
            self.a[rank] -= goes
            self.put(rank, peer, goes)

        def mix(model: Any, weight: float) -> None:
            x, a = self.arrived(rank, model)
            assert abs(weight - a) < 1e-15
            self.x[rank] = (self.a[rank] * self.x[rank] + a * x) / (self.a[rank] + a)
            self.a[rank] += a

        for name in ("push", "push_back"):
            self.before(exchange, name, push)
            self.after(exchange, name, lambda peer: self.check(rank))
        self.before(exchange, "mix", mix)
        self.after(exchange, "mix", lambda model, weight: self.check(rank))

    def updated(self, rank: int, step: FloatArray) -> None:
        share = 1 / self.size if self.numerator else self.a[rank]
        self.least = min(self.least, self.a[rank])
        self.total = self.total - share * step
        super().updated(rank, step * share / self.a[rank])

    def check(self, rank: int) -> None:
        super().check(rank)
        if len(self.exchanges) == self.size:  # all have begun
            weights = [self.exchanges[other].weight for other in range(self.size)]
            assert abs(sum(weights) + sum(a for *_, a in self.sent) - 1) < 1e-12
            states = [self.exchanges[other].worker.arena.state.numpy().astype(np.float64) for other in range(self.size)]
            assert near(sum(a * x for a, x in zip(weights, states, strict=True)) + sum(a * x for *_, x, a in self.sent), self.total)


@dataclass(eq=False)
class Question:
    """What one rank has asked another one, and what has become of it."""

    asker: int
    peer: int
    x: FloatArray
    """As it was sent."""
    known: list[Question]
    """What the asker had heard when it asked."""
    crosses: Question | None = None
    heard: bool = False
    d: FloatArray | None = None
    bits: FloatArray | None = None
    over: bool = False
    """The asker has moved."""


@final
class Pairs(Oracle):
    """d = (x_i as sent - x_j) / 2: x_j <- x_j + d, x_i <- x_i - d; where neither has heard the other when it asked, both as sent, once."""

    def __init__(self, size: int, gradients: bool = True) -> None:
        super().__init__(size, gradients)
        self.asked: list[Question] = []

    def of(self, rank: int) -> list[Question]:
        """The question of a rank that is under way, if there is one."""
        return [question for question in self.asked if question.asker == rank and not question.over]

    def hear(self, exchange: Any, rank: int) -> None:
        def ask(peer: int) -> None:
            assert not self.of(rank), "one exchange at a time"
            assert peer != rank
            self.begun[rank] += 1
            self.asked.append(Question(rank, peer, self.x[rank], [question for question in self.of(peer) if question.heard]))

        def heard(peer: int, step: int, number: float) -> None:
            (question,) = (question for question in self.asked if (question.asker, question.peer, question.heard) == (peer, rank, False))
            question.heard = True
            question.crosses = next((own for own in self.of(rank) if own.peer == peer and own not in question.known), None)

        def moved(halved: Any, sign: int = 1) -> None:
            given = np.asarray(halved).copy()
            if sign < 0:
                (question,) = self.of(rank)
                assert np.array_equal(given, question.bits), "what one adds the other takes away, bit by bit"
                question.over = True
                self.x[rank] = self.x[rank] - question.d
            else:
                waiting = [q for q in self.asked if q.peer == rank and q.heard and q.d is None]
                halves = [(q.x - (self.x[rank] if q.crosses is None else q.crosses.x)) / 2 for q in waiting]
                ((question, d),) = ((q, d) for q, d in zip(waiting, halves, strict=True) if near(given, d))
                question.d, question.bits = d, given
                self.x[rank] = self.x[rank] + d
                if question.crosses is not None:
                    assert not question.crosses.over
                    question.crosses.over = True
            self.mixed[rank] += 1
            self.check(rank)

        self.before(exchange, "ask", ask)
        self.before(exchange, "heard", heard)
        self.after(exchange, "move", moved)

    @property
    def crossings(self) -> int:
        """Pairs of questions that have crossed."""
        return sum(question.crosses is not None for question in self.asked) // 2

    def over(self) -> None:
        super().over()
        assert all(question.over and question.d is not None for question in self.asked)
        assert all(q.crosses is None or q.crosses.crosses is q for q in self.asked), "both know it"
        assert sum(self.mixed) == 2 * (len(self.asked) - self.crossings)
