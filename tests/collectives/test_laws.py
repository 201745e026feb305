"""The laws of the collectives on virtual ranks: any number of ranks, any length."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws import LAWS, LENGTHS, allowed
from workbench.collectives import COLLECTIVES
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import WIRES, Codec, Float32

CODECS = [name for name, wire in WIRES.items() if issubclass(wire, Codec)]
NETWORK = Network(latency=1e-5, bandwidth=1e8)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", range(1, 10))
def test_law(law, name: str, codec: str, size: int) -> None:
    collective, wire = COLLECTIVES[name](), WIRES[codec]()
    if not allowed(collective, wire, size):
        return

    def body(comm: Communicator) -> list[str]:
        return [words for length in LENGTHS for words in law(comm, collective, wire, length)]

    assert VirtualWorld(size, NETWORK).run(body) == [[]] * size


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16])
def test_the_virtual_clock_shows_what_the_formula_says(name: str, size: int) -> None:
    """A length that divides evenly, as formulas assume."""
    collective, length = COLLECTIVES[name](), 16 * 9 * 5 * 7 * 2
    if not allowed(collective, Float32(), size):
        return

    def body(comm: Communicator) -> float:
        plan = collective.plan(comm, np.ones(length, np.float32))
        start = comm.now()
        plan.run()
        return comm.now() - start

    seconds = max(VirtualWorld(size, NETWORK).run(body))
    assert seconds == pytest.approx(collective.seconds(4 * length, size, NETWORK), rel=0.01, abs=1e-12)


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


def test_a_plan_takes_only_what_can_travel() -> None:
    def body(comm: Communicator) -> None:
        with pytest.raises(ValueError, match="contiguous"):
            COLLECTIVES["ring"]().plan(comm, np.zeros(10, np.float32)[::2])
        with pytest.raises(ValueError, match="NumPy arrays"):
            COLLECTIVES["ring"]().plan(comm, [1.0, 2.0])
        with pytest.raises(ValueError, match="unknown wire 'float23'; did you mean 'float32'"):
            COLLECTIVES["ring"]().plan(comm, np.zeros(4, np.float32), "float23")

    VirtualWorld(1, NETWORK).run(body)
