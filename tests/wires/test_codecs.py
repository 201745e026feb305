"""What codecs write at the edges: nothing, no number, infinite, too large, too small, twice as wide, odd lengths."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.wires import WIRES, BFloat16, Codec, Float16, Int8

NARROW = [wire() for wire in WIRES.values() if issubclass(wire, Codec) and not wire.exact]
LENGTHS = (0, 1, 2, 7, 255, 256, 257, 511, 513, 1001)
CANARY = 0xA5


def sent(codec: Codec, numbers: np.ndarray) -> np.ndarray:
    """What arrives of the numbers; nothing beyond the message may be written."""
    numbers = numbers.copy()
    space = np.full(codec.nbytes(numbers.size, numbers.itemsize) + 8, CANARY, np.uint8)
    coder = codec.coder(numbers, space[: codec.nbytes(numbers.size, numbers.itemsize)])
    coder.encode()
    numbers[:] = -1
    coder.decode()
    assert (space[-8:] == CANARY).all()
    return numbers


@pytest.mark.parametrize("codec", NARROW, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_arrives_within_the_rounding_declared(codec: Codec, dtype: str, length: int) -> None:
    random = np.random.default_rng(length)
    numbers = (random.standard_normal(length) * 10.0 ** random.integers(-3, 4, length)).astype(dtype)
    assert (np.abs(sent(codec, numbers) - numbers) <= codec.rounding(np.abs(numbers)) * (1 + 1e-6)).all()


@pytest.mark.parametrize("codec", NARROW, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_zeros_stay_zeros(codec: Codec, length: int) -> None:
    assert not sent(codec, np.zeros(length, np.float32)).any()
    assert not sent(codec, -np.zeros(length, np.float32)).any()


@pytest.mark.parametrize("codec", NARROW, ids=str)
def test_bytes_of_pieces_add_up(codec: Codec) -> None:
    for length in LENGTHS:
        for cut in range(0, length, codec.block):
            assert codec.nbytes(cut) + codec.nbytes(length - cut) == codec.nbytes(length)


@pytest.mark.parametrize("codec", NARROW, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_added_is_what_would_have_arrived(codec: Codec, dtype: str) -> None:
    theirs, mine = np.random.default_rng(0).standard_normal((2, 700)).astype(dtype)
    message = np.zeros(codec.nbytes(700, mine.itemsize), np.uint8)
    codec.coder(theirs.copy(), message).encode()
    total = mine.copy()
    coder = codec.coder(total, message)
    coder.add()
    np.testing.assert_allclose(total, mine + sent(codec, theirs), rtol=1e-6)
    coder.divide(4)
    np.testing.assert_allclose(total, (mine + sent(codec, theirs)) / 4, rtol=1e-6)


@pytest.mark.parametrize("codec", [Float16(), BFloat16()], ids=str)
def test_half_numbers_that_are_none_or_infinite_arrive_as_such(codec: Codec) -> None:
    numbers = np.array([1.0, np.nan, np.inf, -np.inf, -0.5], np.float32)
    assert np.array_equal(sent(codec, numbers), numbers, equal_nan=True)


@pytest.mark.parametrize("codec", [Float16(), BFloat16()], ids=str)
def test_half_numbers_that_arrived_once_arrive_unchanged(codec: Codec) -> None:
    once = sent(codec, np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    assert np.array_equal(sent(codec, once), once)


def test_half_numbers_too_large_and_too_small() -> None:
    numbers = np.array([65504.0, 1e5, -1e5, 2.0**-24, 2.0**-26, 1e-40], np.float32)
    assert sent(Float16(), numbers).tolist() == [65504.0, np.inf, -np.inf, 2.0**-24, 0.0, 0.0]
    arrived = sent(BFloat16(), numbers)
    assert np.isfinite(arrived).all()
    assert (np.abs(arrived - numbers) <= BFloat16().rounding(np.abs(numbers))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 300, 599])
def test_a_block_of_bytes_with_what_is_no_number_arrives_as_none_and_no_other(bad: float, place: int) -> None:
    numbers = np.ones(600, np.float32)
    numbers[place] = bad
    arrived, block = sent(Int8(), numbers), place // Int8.block
    inside = np.arange(600) // Int8.block == block
    assert np.isnan(arrived[inside]).all()
    assert np.array_equal(arrived[~inside], numbers[~inside])


def test_a_block_of_bytes_keeps_its_largest_number_and_signs() -> None:
    numbers = np.array([3.0, -3.0, 1.5, 1e-3, 0.0], np.float32)
    arrived = sent(Int8(), numbers)
    np.testing.assert_allclose(arrived[:2], numbers[:2], rtol=1e-6)
    assert arrived[3] == arrived[4] == 0
    assert abs(arrived[2] - 1.5) <= 1.5 / 127


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-38, 1e38, 3e38])
def test_a_block_of_bytes_at_the_ends_of_float32(scale: float) -> None:
    numbers = (np.linspace(-1, 1, 257) * scale).astype(np.float32)
    arrived = sent(Int8(), numbers)
    assert np.isfinite(arrived).all()
    assert (np.abs(arrived.astype(np.float64) - numbers) <= Int8().rounding(np.abs(numbers))).all()
