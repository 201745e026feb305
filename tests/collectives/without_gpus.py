"""What each rank of `test_references` runs: NCCL on numbers that no GPU holds."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from workbench.collectives import NCCL
from workbench.comm.mpi import MpiCommunicator

try:
    NCCL().plan(MpiCommunicator(MPI.COMM_WORLD.Dup()), np.zeros(4, np.float32))
except ValueError as error:
    print(error, flush=True)
