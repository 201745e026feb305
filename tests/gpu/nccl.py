"""What each rank of `test_gpu` runs: NCCL with a GPU for each rank, or the error where they share one."""

from __future__ import annotations

import sys

import numpy as np
import torch
from mpi4py import MPI

from tests.laws import inputs
from workbench.collectives import NCCL
from workbench.comm.mpi import MpiCommunicator

comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
gpus = torch.cuda.device_count()
segment = torch.from_numpy(inputs(comm.rank, 1_000_003)).to(f"cuda:{comm.rank % gpus}")
try:
    plan = NCCL().plan(comm, segment)
except ValueError as error:
    print(error if gpus < comm.size else f"BROKEN: {error}", flush=True)
else:
    plan.run()
    mean = np.mean([inputs(rank, 1_000_003).astype(np.float64) for rank in range(comm.size)], axis=0)
    kept = np.allclose(segment.cpu().numpy(), mean, rtol=1e-5, atol=1e-3)
    print("the mean" if kept and gpus >= comm.size else "BROKEN", flush=True)
    sys.exit(not kept)
