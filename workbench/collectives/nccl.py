"""NCCL's all-reduce: a reference peer on GPUs."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import numpy as np

from workbench.collectives.base import Plan, Steps
from workbench.collectives.library import Library
from workbench.comm.base import Communicator
from workbench.comm.staging import Recorded
from workbench.wires.numbers import Resident

IDENTITY_BYTES: Final = 128
"""Of a group, as NCCL writes it."""


@final
@dataclass(frozen=True)
class NCCL(Library):
    """Leave the sum to NCCL, from GPU to GPU, never through the host; then divide (`nccl32` of Theano-MPI: Ma, Mao and Taylor, 2016).

    One GPU per rank. It is PyTorch's own NCCL, without a process group: the identity of the group travels by the
    communicator, and NCCL makes its connections by itself.
    """

    real_only: ClassVar[bool] = True
    one_at_a_time: ClassVar[bool] = True
    on_device: ClassVar[bool] = True

    def connect(self, plan: Plan) -> Any:
        """NCCL's communicator of this plan alone; made on a thread, since it blocks until all ranks have come."""
        import torch

        from workbench.comm.process_group import Made

        assert isinstance(plan.numbers, Resident)
        comm, tensor, nccl = plan.comm, plan.numbers.tensor, _library()
        _one_gpu_each(comm, str(torch.cuda.get_device_properties(tensor.device).uuid))
        if not any(comm.hosts()):
            os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # it listens where all ranks are, and nowhere else
        identity = np.zeros(IDENTITY_BYTES, np.uint8)
        if comm.rank == 0:
            identity[:] = np.frombuffer(nccl.unique_id(), np.uint8)
        comm.wait(comm.iallreduce(identity))

        def join() -> Any:
            torch.cuda.set_device(tensor.device)
            return nccl.init_rank(comm.size, identity.tobytes(), comm.rank)

        made = Made("nccl to begin", join, early=lambda: None)
        comm.wait(made)
        return made.value, tensor, torch.cuda.Stream(tensor.device)  # type: ignore[no-untyped-call]

    def steps(self, plan: Plan) -> Steps:
        """One all-reduce of the whole tensor, behind what the rank has computed so far; the division behind it."""
        import torch

        (group, tensor, stream), nccl = plan.connection, _library()
        plan.comm.carried(tensor.numel() * plan.itemsize)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            nccl.all_reduce([tensor], streams=[stream], comms=[group])
            tensor.div_(plan.comm.size)
        yield (Recorded(stream),)


def _library() -> Any:
    from torch.cuda import nccl

    return nccl


def _one_gpu_each(comm: Communicator, identity: str) -> None:
    """Collective. ValueError, naming both, where two ranks are bound to one GPU."""
    told = np.zeros(comm.size, np.int64)
    told[comm.rank] = 1 + zlib.crc32(identity.encode())
    comm.wait(comm.iallreduce(told))
    for rank in range(comm.size):
        first = int(np.argmax(told == told[rank]))
        if first != rank:
            raise ValueError(
                f"NCCL() needs one GPU per rank: ranks {first} and {rank} share one; take fewer ranks, or a collective like Native() or Ring()"
            )
