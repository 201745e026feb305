"""How often numbers are rounded on their way into the mean, and that this is what the error comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from tests.laws import allowed, bound, codecs, collectives
from workbench.collectives import AllToAll, CentralServer, Collective, Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import WIRES, BFloat16, Codec, Float16, Float32, Wire
from workbench.wires.half import Half

LENGTH = 600
Brought = Callable[[int, int, np.random.Generator], np.ndarray]
"""(rank, size, random) -> what the rank brings, float32 of shape (LENGTH,)."""


def cancelling(rank: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Large numbers whose sum is small: what is rounded away is as large as what is left."""
    signs = (-1.0) ** rank if rank < size - size % 2 else 0.0
    return signs * np.random.default_rng(1).uniform(1e3, 1e4, LENGTH) + random.standard_normal(LENGTH)


def subnormal(rank: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Below the smallest normal numbers of half precision (6e-5), and of float32."""
    return random.standard_normal(LENGTH) * 10.0 ** random.choice([-6, -7, -8, -39], LENGTH)


def huge(rank: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Of which all together come to little less than 65504, the largest of half precision."""
    return 65_504 / size * random.uniform(0.98, 1, LENGTH) * (-1.0) ** np.arange(LENGTH)


def halfway(rank: int, size: int, random: np.random.Generator) -> np.ndarray:
    """As far from what can be written as it goes, all on one side."""
    return (1 + 2.0**-11) * 2.0 ** random.integers(-3, 4, LENGTH)


HARD: tuple[Brought, ...] = (cancelling, subnormal, huge, halfway)


def everyone(brought: Brought, size: int) -> np.ndarray:
    """What all ranks bring, float32 of shape (size, LENGTH)."""
    return np.stack([brought(rank, size, np.random.default_rng([rank, size])) for rank in range(size)]).astype(np.float32)


def reduced(collective: Collective, given: np.ndarray, wire: Wire | str) -> np.ndarray:
    """The mean as all ranks have it, bit by bit the same."""

    def body(comm: Communicator) -> np.ndarray:
        buffer = given[comm.rank].copy()
        collective.reduce(comm, buffer, wire)
        return buffer

    results = VirtualWorld(len(given), Network()).run(body)
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.int32), results[0].view(np.int32))
    return results[0]


def excess(collective: Collective, wire: Codec, given: np.ndarray) -> float:
    """The largest error, as a share of the documented bound."""
    exact = given.astype(np.float64)
    return float((np.abs(reduced(collective, given, wire) - exact.mean(axis=0)) / bound(collective, wire, exact)).max())


@pytest.mark.parametrize("collective", collectives(), ids=str)
@pytest.mark.parametrize("brought", HARD, ids=lambda brought: brought.__name__)
def test_hard_sums_stay_within_the_bound(collective: Collective, brought: Brought) -> None:
    for wire in (Float16(), BFloat16()):
        for size in (2, 3, 6, 9):
            if allowed(collective, wire, size):
                share = excess(collective, wire, everyone(brought, size))
                assert share <= 1, f"{collective} x {wire} x {size} ranks: off by {share:.2f} of what is allowed"


@dataclass(frozen=True)
class Coarse(Half):
    """Promises what half precision does, and writes three bits fewer."""

    dtype: ClassVar[str] = "bfloat16"
    relative: ClassVar[float] = Float16.relative
    absolute: ClassVar[float] = Float16.absolute


@pytest.mark.parametrize("collective", [each for each in collectives() if each.any_codec], ids=str)
def test_the_bound_finds_a_codec_that_rounds_more_than_it_says(collective: Collective, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WIRES, "coarse", Coarse)
    given = everyone(huge, 6)
    assert excess(collective, Float16(), given) <= 1 < excess(collective, Coarse(), given)


def test_the_bound_is_not_far_from_what_happens() -> None:
    """Numbers half-way between neighbours, on one side: both roundings of `AllToAll` cost what they may."""
    given = np.full((3, LENGTH), 1 + 2.0**-11, np.float32)
    assert 0.49 < excess(AllToAll(), Float16(), given) <= 1  # all of the first one; then the mean is a number that can be written
    given = np.float32([[1 + 2.0**-11 + 2.0**-22], [1 - 2.0**-12], [1 + 2.0**-11 + 2.0**-22]]).repeat(LENGTH, axis=1)
    assert 0.6 < excess(AllToAll(), Float16(), given) <= 1


# what travels once is summed by nobody on the way


def by_hand(given: np.ndarray, write: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The mean of `AllToAll` in NumPy: everything written once, summed in the order of the ranks, the mean written once."""
    written = [write(each) for each in given]
    total = written[0].copy()
    for each in written[1:]:
        total += each
    return write(total / np.float32(len(given)))


@pytest.mark.parametrize("size", [2, 3, 4, 7, 9])
@pytest.mark.parametrize("brought", HARD, ids=lambda brought: brought.__name__)
def test_all_to_all_with_float16_makes_two_roundings_and_no_more(brought: Brought, size: int) -> None:
    given = everyone(brought, size)
    expected = by_hand(given, lambda numbers: numbers.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(reduced(AllToAll(), given, "float16").view(np.int32), expected.view(np.int32))
    assert (expected != given.mean(axis=0)).any()  # two roundings can be seen
    assert AllToAll().roundings(size) == 2


@pytest.mark.parametrize("collective", [AllToAll(), CentralServer()], ids=str)
def test_sums_in_the_order_of_the_ranks_are_numpys(collective: Collective) -> None:
    given = everyone(cancelling, 7)
    np.testing.assert_array_equal(reduced(collective, given, Float32()).view(np.int32), by_hand(given, np.array).view(np.int32))


def test_numbers_that_fit_stay_finite_where_no_sum_travels() -> None:
    """The sum of two is more than half precision holds; their mean is not."""
    given = np.full((4, LENGTH), 65_000, np.float32)
    for collective in (AllToAll(), CentralServer(), CentralServer(servers=3)):
        np.testing.assert_array_equal(reduced(collective, given, "float16"), np.full(LENGTH, np.float32(np.float16(65_000))))
    assert np.isinf(reduced(Ring(), given, "float16")).all()
    for collective in collectives():
        if allowed(collective, BFloat16(), 4):
            assert np.isfinite(reduced(collective, given, BFloat16())).all()


def test_every_codec_is_tried() -> None:
    assert {type(wire) for wire in codecs()} >= {Float32, Float16, BFloat16}
