"""Gloo's all-reduce: a reference peer."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, ClassVar, final

from workbench.collectives.base import Plan, Steps
from workbench.collectives.library import Library


@final
@dataclass(frozen=True)
class Gloo(Library):
    """Leave the sum to Gloo, what PyTorch's DistributedDataParallel uses on CPUs (Li et al., 2020), over TCP; then divide.

    A reference: it runs over connections of its own, which an emulated link or virtual ranks do not slow down.
    """

    real_only: ClassVar[bool] = True

    def connect(self, plan: Plan) -> Any:
        """A process group of this plan alone, on loopback where all ranks share a host."""
        import torch
        from torch.distributed import ProcessGroupGloo

        from workbench.comm.process_group import PATIENCE, ProcessGroup

        comm = plan.comm
        if plan.itemsize < 4:
            raise ValueError(f"{self} sums float32 or float64, got numbers of {plan.itemsize} bytes")
        alone = not any(comm.hosts())

        def make(store: Any) -> Any:
            options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1" if alone else socket.gethostname())]
            options._threads, options._timeout = 1, PATIENCE
            return ProcessGroupGloo(store, comm.rank, comm.size, options)

        return ProcessGroup(comm, "gloo", make), torch.from_numpy(plan.buffer)

    def steps(self, plan: Plan) -> Steps:
        """One all-reduce of the whole buffer."""
        group, tensor = plan.connection
        plan.comm.carried(plan.buffer.nbytes)
        try:
            yield (group.allreduce(tensor),)
        except BaseException:  # also where the rank has given up waiting
            group.close()
            raise
        plan.seal(0)
