"""Gossip: each mixing is what the rule says, nobody waits, and no message is lost or left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.strategies.world import RATE, gradient_of, play, start_of
from workbench.strategies import Gossip
from workbench.strategies.gossip import Pulling

STEPS = 12


def listen(exchange: Any) -> list[tuple[Any, ...]]:
    """Write down what an exchange does: ("mix", step, before, what came) and ("answer", whom, what was sent)."""
    assert isinstance(exchange, Pulling)
    log: list[tuple[Any, ...]] = []
    mix, answer, ask = exchange.mix, exchange.answer, exchange.ask

    def mixing() -> None:
        before, came = exchange.worker.arena.state.numpy().copy(), exchange.incoming.host.copy()
        assert exchange.arriving is not None
        log.append(("mix", exchange.worker.step, before, came, exchange.arriving.source))
        mix()

    def answering() -> None:
        assert exchange.hearing is not None
        log.append(("answer", exchange.hearing.source, exchange.worker.arena.state.numpy().copy()))
        answer()

    def asking() -> None:
        log.append(("ask", exchange.worker.step))
        ask()

    exchange.mix, exchange.answer, exchange.ask = mixing, answering, asking  # type: ignore[method-assign]
    return log


@pytest.mark.parametrize("size", range(1, 10))
def test_the_rule_step_by_step(size: int) -> None:
    """x <- x - eta g, then x <- (x + x_j) / 2 where a model has come; and what came is what the peer sent at that time."""
    trajectories, logs = play(Gossip(), size, STEPS, watch=listen, seconds=lambda rank: 1e-3 * (1 + 0.3 * rank))
    for index in range(size):
        sent = {peer: [entry[2] for entry in logs[peer] if entry[0] == "answer" and entry[1] == index] for peer in range(size)}
        mixes = [entry for entry in logs[index] if entry[0] == "mix"]
        assert len(mixes) == len([entry for entry in logs[index] if entry[0] == "ask"]), "every question is answered once"
        for _, _, _, came, peer in mixes:
            assert peer != index
            assert np.array_equal(came, sent[peer].pop(0)), "what arrives is the peer's copy, whole and in order"
        assert not any(sent.values()), "no answer is lost"
        x = start_of(index).astype(np.float64)
        for step in range(STEPS):
            x = x - RATE * gradient_of(index, step)
            for came in (entry[3] for entry in mixes if entry[1] == step):
                x = (x + came) / 2
            np.testing.assert_allclose(trajectories[index][step + 1], x, rtol=1e-4, atol=1e-5)
        for came in (entry[3] for entry in mixes if entry[1] == STEPS):  # the last pull, taken in at the end
            x = (x + came) / 2
        np.testing.assert_allclose(trajectories[index][-1], x, rtol=1e-4, atol=1e-5)


def test_only_every_so_many_steps() -> None:
    _, logs = play(Gossip(every=4), 3, STEPS, watch=listen)
    for log in logs:
        assert all((entry[1] + 1) % 4 == 0 for entry in log if entry[0] == "ask")


def test_agreement_is_a_fixed_point_and_drift_shrinks() -> None:
    """Without gradients: equal models stay as they are; different ones stay in their hull and come together."""

    def still(exchange: Any) -> None:
        exchange.update = lambda: None

    same, _ = play(Gossip(), 4, STEPS, watch=still, same_start=True)
    for trajectory in same:
        assert np.array_equal(trajectory[-1], start_of(0))
    apart, _ = play(Gossip(), 6, 40, watch=still)
    first, last = np.stack([t[0] for t in apart]), np.stack([t[-1] for t in apart])
    assert (last <= first.max(axis=0) + 1e-6).all()
    assert (last >= first.min(axis=0) - 1e-6).all()
    assert np.ptp(last, axis=0).max() < 0.01 * np.ptp(first, axis=0).max()


def test_ranks_that_end_at_different_steps_leave_nobody_waiting() -> None:
    """As when a run is stopped in the middle: each rank stops where it is."""
    trajectories, _ = play(Gossip(), 5, lambda rank: 3 + 7 * rank, seconds=lambda rank: 1e-3)
    assert [len(trajectory) for trajectory in trajectories] == [3 + 7 * rank + 2 for rank in range(5)]


def test_staleness_is_the_steps_between_asking_and_mixing() -> None:
    """A slow link: the model comes several steps after it was asked for, and the record says how many."""
    seen: list[float] = []

    def watch(exchange: Any) -> None:
        mix = exchange.mix

        def mixing() -> None:
            mix()
            seen.append(exchange.staleness)

        exchange.mix = mixing

    play(Gossip(), 2, STEPS, watch=watch, seconds=lambda rank: 1e-4)
    assert max(seen) >= 2


def test_words_for_bad_options() -> None:
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        Gossip(every=0)
    with pytest.raises(ValueError, match="mode must be one of 'pull', got 'push'"):
        Gossip(mode="push")
