"""What an exchange costs: the formulas of the literature are what the virtual clock shows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws import allowed, codecs, collectives
from workbench.collectives import AllToAll, Collective, MultiRing, Ring, Torus2D, Tree
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import Codec, Float32

NETWORKS = (Network(latency=1e-5, bandwidth=1e8), Network(latency=1e-2, bandwidth=1e9))
"""One where bytes cost, one where messages cost."""
LENGTH = 16 * 9 * 5 * 7 * 2


BLOCKS_LENGTH = 36 * 256
"""Divides evenly for codecs too, which write up to 256 numbers together."""


def measured(collective: Collective, size: int, network: Network, length: int = LENGTH, wire: Codec | str = "float32") -> float:
    def body(comm: Communicator) -> float:
        plan = collective.plan(comm, np.ones(length, np.float32), wire)
        start = comm.now()
        plan.run()
        return comm.now() - start

    return max(VirtualWorld(size, network).run(body))


@pytest.mark.parametrize("collective", collectives(), ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=["bytes cost", "messages cost"])
def test_the_virtual_clock_shows_what_the_formula_says(collective: Collective, network: Network) -> None:
    """A length that divides evenly, as formulas assume."""
    for size in range(1, 17):
        if not allowed(collective, Float32(), size):
            continue
        seconds, formula = measured(collective, size, network), collective.seconds(4 * LENGTH, size, network)
        assert seconds == pytest.approx(formula, rel=0.01, abs=1e-12), f"{collective} on {size} ranks"


@pytest.mark.parametrize("collective", collectives(), ids=str)
@pytest.mark.parametrize("wire", [codec for codec in codecs() if not codec.exact], ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=["bytes cost", "messages cost"])
def test_the_virtual_clock_shows_what_a_codec_says(collective: Collective, wire: Codec, network: Network) -> None:
    """Narrow messages take the time of their own bytes, scales included."""
    for size in (4, 6):
        if allowed(collective, wire, size):
            seconds = measured(collective, size, network, BLOCKS_LENGTH, wire)
            assert seconds == pytest.approx(wire.seconds(BLOCKS_LENGTH, size, network, collective), rel=0.01), f"{collective} on {size} ranks"


def test_few_bytes_or_few_messages() -> None:
    """Which of them is quick where is what they are chosen for."""
    bytes_cost, messages_cost = NETWORKS
    size, nbytes = 16, 4 * LENGTH

    def order(network: Network) -> list[str]:
        several = (Tree(), Ring(), Torus2D(), AllToAll(), MultiRing())
        return [type(each).__name__ for each in sorted(several, key=lambda each: each.seconds(nbytes, size, network))]

    assert order(bytes_cost)[-1] == "Tree"
    assert order(messages_cost)[0] == "AllToAll"
    assert order(messages_cost)[-1] == "Ring"
    assert Torus2D().seconds(nbytes, size, messages_cost) < Ring().seconds(nbytes, size, messages_cost) / 2  # 12 latencies, not 30


def test_rings_hide_each_others_latency() -> None:
    """With two, what one waits for is hidden behind the other's message; bytes stay those of one."""
    network = NETWORKS[0]
    one, two = (measured(MultiRing(rings=rings), 8, network) for rings in (1, 2))
    assert one == pytest.approx(Ring().seconds(4 * LENGTH, 8, network), rel=1e-6)
    assert one - two == pytest.approx(13 * network.latency, rel=1e-6)  # of 14 latencies the first remains
