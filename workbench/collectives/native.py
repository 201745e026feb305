"""The all-reduce of the library itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.comm.network import Network


@final
@dataclass(frozen=True)
class Native(Collective):
    """Leave the sum to MPI's own (non-blocking) all-reduce, which picks an algorithm by size; then divide.

    What Theano-MPI calls `ar` (Ma, Mao and Taylor, 2016).
    """

    any_codec: ClassVar[bool] = False
    one_at_a_time: ClassVar[bool] = True

    def steps(self, plan: Plan) -> Steps:
        """One all-reduce of the whole buffer."""
        yield (plan.comm.iallreduce(plan.buffer),)
        plan.seal(0)

    def bytes_sent(self, nbytes: int, size: int) -> int:
        """As much as the ring: what the traffic counters take it for."""
        return size * (2 * (size - 1) * nbytes // size)

    def roundings(self, size: int) -> int:
        """None that a wire would make."""
        return 0

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """The cost of the ring: what virtual ranks are charged, since a library does not tell which algorithm it takes."""
        return 2 * (size - 1) * network.seconds(nbytes / size)

    def parts(self, size: int) -> int:
        """One: the library cuts as it likes."""
        return 1
