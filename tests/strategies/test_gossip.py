"""What all modes of gossip keep: nobody waits, everybody meets, runs repeat, and no message is lost or left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.strategies.world import NETWORK, play, start_of
from workbench.comm.network import Network
from workbench.strategies import Gossip
from workbench.strategies.topologies import TOPOLOGIES

MODES = ["pull", "push", "push-sum", "pairwise"]
STEPS = 12


def still(exchange: Any) -> Any:
    exchange.update = lambda: None
    return exchange


def talks(exchange: Any) -> list[int]:
    """The steps at which a rank talks."""
    log: list[int] = []
    talk = exchange.talk

    def talking(peer: int, until: float) -> None:
        log.append(exchange.worker.step)
        talk(peer, until)

    exchange.talk = talking
    return log


@pytest.mark.parametrize("mode", MODES)
def test_only_every_so_many_steps_and_with_a_probability(mode: str) -> None:
    _, logs = play(Gossip(mode=mode, every=4), 3, STEPS, watch=talks)  # type: ignore[arg-type]
    assert logs == [[3, 7, 11]] * 3
    _, logs = play(Gossip(mode=mode, probability=0.3), 4, 50, watch=talks)  # type: ignore[arg-type]
    assert len({tuple(log) for log in logs}) == 4, "every rank draws for itself"
    assert 35 < sum(map(len, logs)) < 85


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mode", MODES)
def test_ranks_meet(mode: str, topology: str) -> None:
    """Without gradients models stay in their hull and come together, the weighted mean stays where the mode keeps it."""
    for size in (2, 3, 4, 5, 8, 9):
        strategy = Gossip(mode=mode, topology=topology)  # type: ignore[arg-type]
        apart, exchanges = play(strategy, size, 30, watch=still, seconds=lambda rank: 1e-3 * (1 + 0.3 * (rank % 4)))
        first, last = (np.stack([trajectory[row] for trajectory in apart]) for row in (0, -1))
        assert (last <= first.max(axis=0) + 1e-6).all()
        assert (last >= first.min(axis=0) - 1e-6).all()
        assert np.ptp(last, axis=0).max() < 0.3 * np.ptp(first, axis=0).max()
        if mode in ("push-sum", "pairwise"):
            weights = [exchange.weight if mode == "push-sum" else 1 / size for exchange in exchanges]
            assert sum(weights) == pytest.approx(1, abs=1e-12)
            np.testing.assert_allclose(np.average(last, axis=0, weights=weights), first.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("patience", [0.0, 2e-3])
@pytest.mark.parametrize("mode", MODES)
def test_no_step_waits_longer_than_its_patience(mode: str, patience: float) -> None:
    """One rank is a hundred times slower than the others; they do not feel it. (Polls cost a virtual rank a microsecond or a few.)"""
    waits: list[float] = []

    def watch(exchange: Any) -> Any:
        after_update, now = exchange.after_update, exchange.comm.now

        def timed() -> None:
            began = now()
            after_update()
            waits.append(now() - began)

        exchange.after_update = timed
        return exchange

    strategy = Gossip(mode=mode, patience_seconds=patience)  # type: ignore[arg-type]
    _, exchanges = play(strategy, 4, lambda rank: 3 if rank == 0 else 40, watch=watch, seconds=lambda rank: 1e-1 if rank == 0 else 1e-3)
    assert max(waits) <= patience + 1e-4
    if patience:
        assert max(waits) >= patience, "and it has waited that long"
    assert sum(sum(exchange.counts.values()) for exchange in exchanges[1:]) > 10, "what could not be begun is counted"


@pytest.mark.parametrize("mode", MODES)
def test_ranks_that_end_at_different_steps_leave_nobody_waiting(mode: str) -> None:
    """As when a run is stopped in the middle: each rank stops where it is, one of them before its first step."""
    strategy = Gossip(mode=mode, patience_seconds=1e-3)  # type: ignore[arg-type]
    trajectories, _ = play(strategy, 5, lambda rank: 9 * rank)
    assert [len(trajectory) for trajectory in trajectories] == [9 * rank + 2 for rank in range(5)]


def first_asks(index: int, workers: int, round: int) -> tuple[int, ...]:
    return (1,) if index == 0 else ()


@pytest.mark.parametrize("mode", ["pull", "pairwise"])
def test_staleness_of_what_was_asked_for_is_the_steps_since_then(mode: str) -> None:
    """A link slower than the steps: there and back takes more than 0.2 ms, two of a rank's steps."""
    seen: list[float] = []

    def watch(exchange: Any) -> None:
        ask, aged, after_update = exchange.ask, exchange.aged, exchange.after_update
        asked: list[int] = []

        def asking(peer: int) -> None:
            asked.append(exchange.worker.step)
            ask(peer)

        def ageing(steps: int) -> None:
            aged(steps)
            if exchange.comm.rank == 0 and exchange.worker.step < STEPS:
                assert exchange.staleness == exchange.worker.step - asked[-1]
                seen.append(exchange.staleness)

        def stepping() -> None:
            before = len(seen)
            after_update()
            assert exchange.comm.rank == 1 or (exchange.staleness > 0) == (len(seen) > before), "what is not mixed in is not old"

        exchange.ask, exchange.aged, exchange.after_update = asking, ageing, stepping

    play(Gossip(mode=mode, topology=f"{__name__}:first_asks"), 2, STEPS, watch=watch, seconds=lambda rank: 1e-4)  # type: ignore[arg-type]
    assert len(seen) >= 2
    assert min(seen) >= 2


def test_staleness_of_what_was_pushed_is_how_far_its_sender_is_behind() -> None:
    """Rank 1 takes ten steps for each of rank 0's; what goes the other way is never old."""
    _, exchanges = play(Gossip(mode="push"), 2, lambda rank: (4, 40)[rank], watch=lambda exchange: exchange, seconds=lambda rank: (1e-2, 1e-3)[rank])
    assert exchanges[1].staleness in range(30, 41)
    assert exchanges[0].staleness == 0


def test_a_thousand_ranks() -> None:
    """Messages per rank and step depend on no number of ranks: a word, a model, an acknowledgement, which has a model with it at the end."""
    trajectories, exchanges = play(Gossip(mode="push-sum"), 1000, 10, watch=still)
    assert sum(exchange.weight for exchange in exchanges) == pytest.approx(1, abs=1e-12)
    mean = np.mean([start_of(rank) for rank in range(1000)], axis=0, dtype=np.float64)
    weighted = np.sum(
        [exchange.weight * trajectory[-1].astype(np.float64) for exchange, trajectory in zip(exchanges, trajectories, strict=True)], axis=0
    )
    np.testing.assert_allclose(weighted, mean, atol=1e-5)
    assert sum(exchange.comm.traffic.total_sent_messages for exchange in exchanges) <= 1000 * (10 * 4 + 1)


def test_what_it_costs() -> None:
    network = Network(latency=1e-3, bandwidth=1e6)
    for mode, models in (("pull", 1), ("push", 1), ("push-sum", 1), ("pairwise", 2)):
        strategy = Gossip(mode=mode, every=4, probability=0.5)  # type: ignore[arg-type]
        assert strategy.seconds(10**6, 1, network) == 0
        assert strategy.seconds(10**6, 2, network) == strategy.seconds(10**6, 900, network) == pytest.approx(models * 1.001 / 8)


def test_words_for_bad_options() -> None:
    for words, options in {
        "every must be a whole number of at least 1, got 0": {"every": 0},
        "mode must be one of 'pull', 'push', 'push-sum', 'pairwise', got 'swap'": {"mode": "swap"},
        r"probability must be a number in \(0, 1\], got 0": {"probability": 0},
        "patience_seconds must be a number in .*, got -1": {"patience_seconds": -1},
        "gradient='numerator' is for mode='push-sum', got mode='pull'": {"gradient": "numerator"},
        "gradient must be one of 'estimate', 'numerator', got 'x'": {"mode": "push-sum", "gradient": "x"},
    }.items():
        with pytest.raises(ValueError, match=words):
            Gossip(**options)  # type: ignore[arg-type]
    assert not Gossip().lockstep
    assert Gossip().outlives
    assert Gossip().seconds(10**6, 2, NETWORK) > 0
