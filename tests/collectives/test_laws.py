"""The laws of the collectives on virtual ranks: any number of ranks, any length."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws import LAWS, LENGTHS, allowed, broken, codecs, collectives, sample
from workbench.collectives import COLLECTIVES, PORTABLE, AllToAll, CentralServer, Collective, Hierarchical, MultiRing, Torus2D
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import WIRES, Codec, Float32

NETWORK = Network(latency=1e-5, bandwidth=1e8)
SIZES = range(1, 10)
LENGTHS_A_WIRE = 3


@pytest.mark.parametrize("collective", collectives(), ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_laws(collective: Collective, size: int) -> None:
    for wire in codecs():
        if allowed(collective, wire, size):

            def body(comm: Communicator, wire: Codec = wire) -> list[str]:
                lengths = sample(collective, wire, size, LENGTHS_A_WIRE)
                return [words for length in lengths for law in LAWS for words in law(comm, collective, wire, length)]

            assert VirtualWorld(size, NETWORK).run(body) == [[]] * size


def test_the_sample_covers_every_length_and_number_of_ranks_of_every_collective() -> None:
    for collective in collectives():
        runs = [(size, wire) for size in SIZES for wire in codecs() if allowed(collective, wire, size)]
        samples = [(size, sample(collective, wire, size, LENGTHS_A_WIRE)) for size, wire in runs]
        assert all(size - 1 in lengths for size, lengths in samples), f"{collective} is not always tried with one chunk that is empty"
        untried = set(LENGTHS) - {length for _, lengths in samples for length in lengths}
        assert not untried, f"{collective} is not tried with {untried} numbers"
        assert {type(wire) for _, wire in runs} == {type(wire) for wire in codecs() if wire.exact or collective.any_codec}
    named = {type(collective) for collective in collectives()}
    assert named == set(PORTABLE.values())


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_laws_where_large_parts_are_added_piece_by_piece(size: int) -> None:
    """Pieces of a few numbers, so that parts have many, and neighbours not equally many."""

    def body(comm: Communicator) -> list[str]:
        comm.piece_bytes = 48
        return broken(comm, lengths=(1, 64, 1023), count=1)

    assert VirtualWorld(size, NETWORK).run(body) == [[]] * size


def test_all_laws_at_once_as_real_ranks_try_them() -> None:
    assert VirtualWorld(3, NETWORK).run(lambda comm: broken(comm, lengths=(5,))) == [[]] * 3


def test_the_laws_find_what_is_broken() -> None:
    """The checks can fail: ranks that only scale what they have keep neither the mean nor the same bits."""
    from tests.laws import exact_mean, same_bits

    class Broken:
        def reduce(self, comm: Communicator, buffer: np.ndarray, wire: Float32) -> None:
            buffer /= comm.size

        def roundings(self, size: int) -> int:
            return 0

    def body(comm: Communicator) -> list[int]:
        return [len(list(law(comm, Broken(), Float32(), 64))) for law in (exact_mean, same_bits)]  # type: ignore[arg-type]

    assert VirtualWorld(3, NETWORK).run(body) == [[1, 1]] * 3


@pytest.mark.parametrize("collective", collectives(), ids=str)
def test_after_the_first_exchange_a_plan_makes_no_more_buffers(collective: Collective) -> None:
    """All coders and slots are there: an exchange of the same plan only fills them again."""

    def body(comm: Communicator) -> bool:
        plan = collective.plan(comm, np.ones(1000, np.float32))
        plan.run()
        made = {id(coder) for coder in plan._coders.values()}, {id(slot) for slot in plan._slots.values()}
        plan.run()
        return made == ({id(coder) for coder in plan._coders.values()}, {id(slot) for slot in plan._slots.values()})

    if allowed(collective, Float32(), 6):
        assert all(VirtualWorld(6, NETWORK).run(body))


@pytest.mark.parametrize(
    ("collective", "size", "words"),
    [
        (Torus2D(rows=4), 6, "Torus2D(rows=4) needs a number of ranks that 4 divides, got 6; rows may be 1, 2, 3 or 6"),
        (Torus2D(rows=2), 7, "Torus2D(rows=2) needs a number of ranks that 2 divides, got 7; rows may be 1 or 7"),
        (Torus2D(rows=2), 1, "Torus2D(rows=2) needs a number of ranks that 2 divides, got 1; rows may be 1"),
        (CentralServer(servers=4), 3, "CentralServer(servers=4) needs at least 4 ranks, got 3; servers may be 1 to 3"),
    ],
)
def test_a_number_of_ranks_that_does_not_work_is_refused_before_anything_is_sent(collective: Collective, size: int, words: str) -> None:
    with pytest.raises(ValueError) as error:
        collective.check(size)
    assert str(error.value) == words
    with pytest.raises(ValueError, match="may be 1"):
        VirtualWorld(size, NETWORK).run(lambda comm: collective.plan(comm, np.zeros(8, np.float32)))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: Torus2D(rows=0), "Torus2D(rows=0): rows must be a whole number of at least 1 or None, got 0"),
        (lambda: Hierarchical(group=0), "Hierarchical(group=0): group must be a whole number of at least 1 or None, got 0"),
        (lambda: MultiRing(rings=33), "MultiRing(rings=33): rings must be a whole number in [1, 32], got 33"),
        (lambda: CentralServer(servers=0), "CentralServer(servers=0): servers must be a whole number of at least 1, got 0"),
    ],
)
def test_options_have_bounds(made, words: str) -> None:
    with pytest.raises(ValueError) as error:
        made()
    assert str(error.value) == words


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (2, 1), (4, 2), (6, 2), (7, 1), (9, 3), (12, 3), (16, 4), (24, 4), (36, 6)])
def test_a_torus_is_as_near_to_a_square_as_it_goes(size: int, rows: int) -> None:
    same, length = Torus2D(rows=rows), 4 * 36 * 100
    assert Torus2D().seconds(length, size, NETWORK) == same.seconds(length, size, NETWORK)
    assert Torus2D().roundings(size) == rows + size // rows - 1


def test_a_plan_takes_only_what_can_travel() -> None:
    import torch

    def body(comm: Communicator) -> None:
        for collective in (COLLECTIVES["ring"](), AllToAll()):
            with pytest.raises(ValueError, match="contiguous"):
                collective.plan(comm, np.zeros(10, np.float32)[::2])
            with pytest.raises(ValueError, match="NumPy arrays"):
                collective.plan(comm, [1.0, 2.0])
            with pytest.raises(ValueError, match="unknown wire 'float23'; did you mean 'float32'"):
                collective.plan(comm, np.zeros(4, np.float32), "float23")
            with pytest.raises(ValueError, match="got ndarray of int32"):
                collective.plan(comm, np.zeros(4, np.int32))
            fixed = np.zeros(4, np.float32)
            fixed.setflags(write=False)
            for wire in WIRES.values():
                if allowed(collective, wire(), comm.size):
                    with pytest.raises(ValueError, match=r"shape \(n,\), got one of shape \(2, 3\)"):
                        collective.plan(comm, np.zeros((2, 3), np.float32), wire())
                    with pytest.raises(ValueError, match="read-only"):
                        collective.plan(comm, fixed, wire())
            for wire in codecs():  # brain floats are a wire, never a buffer: MPI does not know them
                with pytest.raises(ValueError, match=r"got Tensor of torch\.bfloat16"):
                    collective.plan(comm, torch.zeros(4, dtype=torch.bfloat16), wire)
        raw = torch.zeros(4, dtype=torch.bfloat16)
        for post in (lambda: comm.isend(raw, 0), lambda: comm.irecv(raw, 0), lambda: comm.iallreduce(raw)):  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=r"got Tensor of torch\.bfloat16"):
                post()

    VirtualWorld(1, NETWORK).run(body)
