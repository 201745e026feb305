"""A peer dies in the middle of an exchange: it is forgotten, never talked to again, and the end does not wait for it. Every request is scripted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.strategies.world import RATE, worker_of
from workbench.comm.base import ANY
from workbench.strategies import Gossip
from workbench.strategies.gossiping import MODEL, REPLY, WORD
from workbench.strategies.pairing import CROSSED, MOVED

MODES = ["pull", "push", "push-sum", "pairwise"]


@dataclass(eq=False)
class Scripted:
    """A request that is complete when the script says so."""

    kind: str
    peer: int
    tag: int
    buffer: Any
    ready: bool = False
    done: bool = False
    lost: bool = False
    source: int = ANY


class Stage:
    """What rank 0 of three sees of a communicator. Nothing happens but by the script; a wait for what cannot come is an error."""

    def __init__(self) -> None:
        self.rank, self.size, self.lost = 0, 3, frozenset[int]()
        self.requests: list[Scripted] = []
        self.unexpected: list[tuple[int, int, Any]] = []
        self.at_the_end: Callable[[], None] = lambda: None

    def channel(self, k: int) -> Stage:
        return self

    def now(self) -> float:
        return 0.0

    def isend(self, buffer: Any, dest: int, tag: int) -> Scripted:
        gone = dest in self.lost
        request = self.posted(Scripted("send", dest, tag, buffer.copy(), ready=True, lost=gone))
        if dest == self.rank:
            self.at_the_end()
            self.come(self.rank, tag, buffer)
        return request

    def irecv(self, buffer: Any, source: int, tag: int) -> Scripted:
        request = self.posted(Scripted("receive", source, tag, buffer, ready=source in self.lost, lost=source in self.lost))
        for message in [message for message in self.unexpected if message[1] == tag and source in (message[0], ANY)][:1]:
            self.unexpected.remove(message)
            self.come(*message)
        return request

    def everyone(self) -> Scripted:
        return self.posted(Scripted("everyone", ANY, 0, None, ready=True))

    def wait_any(self, *requests: Scripted, until: float | None = None) -> int:
        for index, request in enumerate(requests):
            if request.ready:
                request.done = True
                return index
        assert until is not None, "a wait for ever"
        return -1

    def wait(self, *requests: Scripted) -> None:
        assert all(request.ready for request in requests), "a wait for ever"

    def posted(self, request: Scripted) -> Scripted:
        self.requests.append(request)
        return request

    # -- the script ------------------------------------------------------------------------------------------------

    def come(self, source: int, tag: int, content: Any) -> None:
        waiting = [r for r in self.requests if r.kind == "receive" and not r.ready and r.tag == tag and r.peer in (source, ANY)]
        if not waiting:
            self.unexpected.append((source, tag, content))
            return
        waiting[0].buffer[:] = content
        waiting[0].ready, waiting[0].source = True, source

    def die(self, rank: int) -> None:
        self.lost |= {rank}
        for request in self.requests:
            if request.peer == rank and not request.ready:
                request.ready = request.lost = True

    def sent(self, tag: int) -> list[Scripted]:
        return [request for request in self.requests if request.kind == "send" and request.tag == tag and request.peer != self.rank]


def staged(mode: str) -> tuple[Stage, Any]:
    """The stage, and the exchange of rank 0."""
    stage = Stage()
    return stage, Gossip(mode=mode).exchange(stage, worker_of(stage, same_start=False))  # type: ignore[arg-type]


def begun(mode: str) -> tuple[Stage, Any, int]:
    """After its first step, in which it has talked; and to whom."""
    stage, exchange = staged(mode)
    exchange.after_update()
    return stage, exchange, stage.sent(WORD)[-1].peer


def step(exchange: Any) -> None:
    exchange.worker.step += 1
    exchange.after_update()


@pytest.mark.parametrize("mode", MODES)
def test_what_was_under_way_is_forgotten_and_only_the_living_are_talked_to(mode: str) -> None:
    stage, exchange, peer = begun(mode)
    before = exchange.worker.arena.state.clone()
    assert exchange.under_way
    stage.die(peer)
    for _ in range(6):
        step(exchange)
    assert [request.peer for request in stage.sent(WORD)] == [peer, 3 - peer], "once to the dead, once to the other, who does not answer"
    assert exchange.counts.total() == 5
    assert exchange.worker.arena.state.equal(before)
    if mode == "push-sum":
        assert exchange.weight == 1 / 12, "half of it is gone with the dead, half of the rest is on its way"


def test_in_gradient_push_the_weight_of_the_dead_makes_no_step_longer() -> None:
    """Until the rank knows, it keeps a quarter of a fair share, and a step is eta / (W a); then its steps are eta, and pushes take half again."""
    stage = Stage()
    exchange = Gossip(mode="push-sum", gradient="numerator").exchange(stage, worker_of(stage, same_start=False))  # type: ignore[arg-type]

    def moved() -> float:
        before = exchange.worker.arena.state.clone()
        exchange.worker.arena.gradients.fill_(1.0)
        exchange.update()
        (length,) = {round(float(moved), 5) for moved in before - exchange.worker.arena.state}
        return length

    assert moved() == pytest.approx(RATE)
    for peer, weight in ((1, 1 / 6), (2, 1 / 12)):
        exchange.push(peer)
        assert exchange.weight == pytest.approx(weight)
    assert moved() == pytest.approx(4 * RATE)
    stage.come(2, REPLY, [0.0, 0.0])
    exchange.look(0.0)
    exchange.push(2)
    assert stage.sent(WORD)[-1].buffer[1] == 0
    assert exchange.weight == pytest.approx(1 / 12), "as often as it may push"
    assert exchange.counts == {"pushes without weight": 1}
    stage.die(1)
    stage.come(2, REPLY, [0.0, 0.0])
    exchange.look(0.0)
    assert moved() == pytest.approx(RATE)
    exchange.push(2)
    assert exchange.weight == pytest.approx(1 / 24)
    assert moved() == pytest.approx(RATE)


@pytest.mark.parametrize("mode", MODES)
def test_the_end_does_not_wait_for_the_dead(mode: str) -> None:
    stage, exchange, peer = begun(mode)
    stage.come(3 - peer, WORD, [0.0, 0.25])  # the other one's content is on its way when it dies
    stage.die(peer)
    exchange.look(0.0)
    assert not exchange.under_way
    stage.die(3 - peer)
    step(exchange)
    stage.at_the_end = lambda: stage.come(peer, WORD, [0.0, 0.0])  # a word of a dead one is found at the very end
    exchange.finish()
    assert all(request.ready for request in stage.requests)
    assert not stage.unexpected
    assert exchange.under_way is False


@pytest.mark.parametrize("last_act", ["word", "reply", "both", "moved"])
def test_a_pair_of_which_one_dies_in_the_middle(last_act: str) -> None:
    """Whatever it has said before: its question that crosses ours, that it knows so, that it has moved; but no model came."""
    stage, exchange = staged("pairwise")
    peer = 1
    exchange.ask(peer)
    before = exchange.worker.arena.state.clone()
    if last_act in ("word", "both"):
        stage.come(peer, WORD, [0.0, 0.0])
        exchange.look(0.0)
    if last_act != "word":
        stage.come(peer, REPLY, MOVED if last_act == "moved" else CROSSED)
        exchange.look(0.0)
    if last_act == "reply":
        stage.come(peer, WORD, [0.0, 0.0])
    assert exchange.under_way
    stage.die(peer)
    exchange.look(0.0)
    assert exchange.parts == 0, "each part of the exchange is over, and once"
    assert exchange.worker.arena.state.equal(before)
    exchange.ask(2)
    stage.come(2, WORD, [0.0, 0.0])
    exchange.look(0.0)
    stage.come(2, MODEL, np.zeros(12))
    exchange.look(0.0)
    stage.come(2, REPLY, CROSSED)
    exchange.finish()
    np.testing.assert_allclose(exchange.worker.arena.state, before / 2, rtol=1e-6)
