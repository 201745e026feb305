"""How ranks that have tried laws end: all together, with the words of all of them."""

from __future__ import annotations

import sys
from typing import NoReturn

from mpi4py import MPI


def conclude(found: list[str], kept: str) -> NoReturn:
    """Collective. Rank 0 prints what any rank found broken, else `kept`; exit code 1 on a rank that found something."""
    everything = MPI.COMM_WORLD.gather(found)
    if everything is not None:
        words = [word for of_rank in everything for word in of_rank]
        print("\n".join(words) if words else kept, flush=True)
    sys.exit(bool(found))
