"""What each rank of `test_gpu` runs, all on one GPU: `mpiexec -n 2 python -m tests.gpu.ranks`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from mpi4py import MPI

from tests.laws import allowed, inputs
from tests.mpi.conclusion import conclude
from workbench.collectives import PORTABLE, Collective
from workbench.comm.base import Communicator
from workbench.comm.mpi import MpiCommunicator
from workbench.wires import WIRES, Codec, kernels


def same_bits_as_on_the_host(comm: Communicator, collective: Collective, codec: Codec, length: int) -> Iterator[str]:
    """What a CUDA buffer becomes has the bits of what a host buffer becomes, run at once and while the device computes."""
    host, device = inputs(comm.rank, length), torch.from_numpy(inputs(comm.rank, length)).cuda()
    there, here = collective.plan(comm, device, codec), collective.plan(comm.channel(0), host, codec)
    coded = codec.kernel is not None and kernels.missing() is None
    if ("coded on the device" in there.path) != coded or "pinned" not in there.path or here.path != "host":
        yield f"{collective} x {codec}: a CUDA buffer is {there.path}, a host buffer {here.path}; kernels: {kernels.missing()}"
    for turn in range(3):
        host *= comm.rank + 1
        device *= comm.rank + 1  # is still to be done when the exchange begins
        here.run()
        if turn == 2:
            under_way = comm.follow(there.steps())
            torch.ones(2048, 2048, device="cuda").matmul(torch.ones(2048, 2048, device="cuda"))
            comm.wait(under_way)
        else:
            there.run()
        if not np.array_equal(device.cpu().numpy().view(np.int32), host.view(np.int32)):
            yield f"{collective} x {codec} x {length}: turn {turn} on rank {comm.rank} differs from the host"


def main() -> None:
    """The law for every collective, codec and some lengths; the words of all ranks are gathered before anyone fails."""
    comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
    found: list[str] = []
    for collective in (made() for made in PORTABLE.values()):
        for codec in (made() for made in WIRES.values()):
            if isinstance(codec, Codec) and allowed(collective, codec, comm.size):
                for length in (0, 1, 257, 4099, 1_000_003):
                    found += same_bits_as_on_the_host(comm, collective, codec, length)
    conclude(found, f"laws kept on {comm.size} ranks")


if __name__ == "__main__":
    main()
