"""Who talks to whom: every topology reaches everyone, and what a user's function gives is checked in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.strategies.world import play
from workbench.job import Job
from workbench.strategies import Gossip
from workbench.strategies.topologies import TOPOLOGIES, Neighbours

NOBODY: frozenset[int] = frozenset()


def to_the_left(index: int, workers: int, round: int) -> int:
    return index - 1


def tens(index: int, workers: int, round: int) -> tuple[np.int64, ...]:
    """Ranks with the same last digit; nobody in odd rounds."""
    return () if round % 2 else tuple(np.arange(index % 10, workers, 10)[np.arange(index % 10, workers, 10) != index])


def nonsense(index: int, workers: int, round: int) -> Any:
    return [index, index + workers, index - workers, "1", None, 1.0, [1, 1.5], True][round]


def drawn(topology: str, index: int, workers: int, rounds: int = 64) -> list[int | None]:
    neighbours, rng = Neighbours(topology, index, workers), np.random.default_rng(index)
    return [neighbours.draw(round, rng, NOBODY) for round in range(rounds)]


@pytest.mark.parametrize("size", range(2, 10))
def test_peers_of_the_table(size: int) -> None:
    for index in range(size):
        assert set(drawn("random", index, size)) == set(range(size)) - {index}
        assert set(drawn("ring", index, size)) == {(index - 1) % size, (index + 1) % size}
        hops = [1, 2, 4, 8][: int(np.ceil(np.log2(size)))]
        assert drawn("exponential", index, size) == [(index + hops[round % len(hops)]) % size for round in range(64)]


@pytest.mark.parametrize(("size", "index", "peers"), [(4, 0, {1, 2}), (6, 1, {0, 2, 4}), (7, 0, {1, 6}), (9, 4, {1, 3, 5, 7}), (12, 0, {1, 3, 4, 8})])
def test_a_torus_is_as_square_as_can_be(size: int, index: int, peers: set[int]) -> None:
    """12 ranks are 3 rows of 4; 7 are a ring."""
    assert set(drawn("torus", index, size)) == peers


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_who_has_died_is_not_drawn(topology: str) -> None:
    neighbours, rng = Neighbours(topology, 1, 6), np.random.default_rng(0)
    assert not {neighbours.draw(round, rng, frozenset({2, 3})) for round in range(64)} & {1, 2, 3}
    assert {neighbours.draw(round, rng, frozenset({0, 2, 3, 4, 5})) for round in range(64)} == {None}


def test_a_users_own_function(tmp_path: Path) -> None:
    assert Gossip(topology=to_the_left).topology == f"{__name__}:to_the_left"  # type: ignore[arg-type]
    assert drawn(f"{__name__}:to_the_left", 0, 5, 3) == [4, 4, 4]
    assert set(drawn(f"{__name__}:tens", 3, 30)[::2]) == {13, 23}
    assert set(drawn(f"{__name__}:tens", 3, 30)[1::2]) == {None}
    _, sent = play(Gossip(mode="push", topology=f"{__name__}:to_the_left"), 3, 4, watch=lambda exchange: exchange.comm.traffic.sent_bytes)
    for rank, row in enumerate(sent):
        assert row[(rank - 1) % 3] >= 48, "to the left go models of 48 bytes"
        assert row[(rank + 1) % 3] <= 4 * 16, "to the right only acknowledgements"
    (tmp_path / "mine.py").write_text("def peers(index, workers, round):\n    return 0\n")
    assert list(Job(strategy=Gossip(topology="mine:peers")).modules(tmp_path)) == ["mine"]
    assert Job(strategy=Gossip()).modules(tmp_path) == {}


@pytest.mark.parametrize(("round", "shown"), list(enumerate(["2", "7", "-3", "'1'", "None", "1.0", "[1, 1.5]", "True"])))
def test_words_for_nonsense(round: int, shown: str) -> None:
    with pytest.raises(ValueError, match="it must give the index of another worker") as error:
        Neighbours(f"{__name__}:nonsense", 2, 5).draw(round, np.random.default_rng(0), NOBODY)
    assert f"nonsense' gave {shown} for index 2 of 5 workers in round {round}; " in str(error.value)
    assert "a whole number modulo 5, or several of them, or none: []" in str(error.value)


def test_words_for_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"unknown topology 'tours'; did you mean 'torus'.*package.module:callable"):
        Gossip(topology="tours")
    with pytest.raises(ValueError, match=r'topology must read "package.module:callable"'):
        Gossip(topology="mine.py:peers!")
    with pytest.raises(ValueError, match="inside a function"):
        Gossip(topology=lambda index, workers, round: 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no module named 'not_there'"):
        Neighbours("not_there:peers", 0, 2)


def dead_end(index: int, workers: int, round: int) -> list[int]:
    """Nothing comes back from 2 and 3."""
    return [[1, 2], [0, 2], [3], [2]][index]


def test_a_weight_that_goes_to_nothing_names_the_cause() -> None:
    with pytest.raises(ValueError, match=r"the weight of worker [01] has fallen to \de-1\d\d.*reachable from every other"):
        play(Gossip(mode="push-sum", topology=f"{__name__}:dead_end"), 4, 1500)
