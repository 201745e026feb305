"""The all-reduce of the library itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from workbench.collectives.base import Plan, Steps
from workbench.collectives.library import Library


@final
@dataclass(frozen=True)
class Native(Library):
    """Leave the sum to MPI's own (non-blocking) all-reduce, which picks an algorithm by size; then divide.

    What Theano-MPI calls `ar` (Ma, Mao and Taylor, 2016).
    """

    one_at_a_time: ClassVar[bool] = True

    def steps(self, plan: Plan) -> Steps:
        """One all-reduce of the whole buffer."""
        yield (plan.comm.iallreduce(plan.buffer),)
        plan.seal(0)
