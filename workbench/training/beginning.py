"""What all ranks of a run must have alike before the first step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.staging import Staged


def agree_on(sizes: Mapping[str, int], comm: Communicator) -> None:
    """Collective. ValueError unless all ranks bring the same sizes, given by name."""
    bounds = np.array([[size, -size] for size in sizes.values()])
    comm.wait(comm.iallreduce(bounds, "min"))
    for name, (least, most) in zip(sizes, bounds, strict=True):
        if least != -most:
            raise ValueError(
                f"the ranks would not train the same: the number of {name} is {least} on one rank and {-most} on another; "
                "a model or data callable must give the same on every rank (shards are cut for it)"
            )


def take_over(comm: Communicator, arena: Arena) -> bool:
    """Collective. All ranks take the parameters of rank 0; whether they were others here."""
    staged = Staged(arena.spare())
    if comm.rank == 0:
        staged.tensor.copy_(arena.state)
        staged.fetch()
    comm.wait(comm.iallreduce(staged.host))
    staged.store()
    if torch.equal(staged.tensor, arena.state):
        return False
    arena.state.copy_(staged.tensor)
    return True
