"""Ranks that tell who they are, and then nothing more, for `test_ranks`."""

from __future__ import annotations

import os
import time

from mpi4py import MPI

from workbench.benchmarks.ranks import tell

if __name__ == "__main__":
    pids = MPI.COMM_WORLD.allgather(os.getpid())
    if MPI.COMM_WORLD.rank == 0:
        tell(pids=pids)
    time.sleep(600)
