"""What is alike in collectives that leave the sum to another library."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from workbench.collectives.base import Collective
from workbench.comm.network import Network


@dataclass(frozen=True)
class Library(Collective, ABC):
    """Leave the sum to a library, which does not tell its algorithm: costs are those of the ring, what libraries take for large buffers."""

    any_codec: ClassVar[bool] = False

    def parts(self, size: int) -> int:
        """One: the library cuts as it likes."""
        return 1

    def roundings(self, size: int) -> int:
        """None that a wire would make."""
        return 0

    def bytes_sent(self, nbytes: int, size: int) -> int:
        """As much as the ring: what the traffic counters take it for."""
        return size * (2 * (size - 1) * nbytes // size)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The cost of the ring, which is also what virtual ranks and an emulated link charge."""
        return network.ring_seconds(nbytes, size)
