"""One rank of `workbench bench exchange`: calibrates, runs the heats and tells what it finds; any launcher may start it on ranks.

`mpiexec -n 4 python -m workbench.benchmarks.exchange_ranks --seconds 60` prints lines of JSON on rank 0.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from workbench.benchmarks.calibration import calibrate
from workbench.benchmarks.heats import GLOO, MPI_MEAN, PEERS, Heat, Track, course
from workbench.benchmarks.heats import MPI as MPI_SUM
from workbench.benchmarks.ranks import tell
from workbench.comm.base import Array
from workbench.comm.link import LinkedCommunicator
from workbench.comm.mpi import MpiCommunicator
from workbench.comm.network import Network
from workbench.errors import WorkbenchError


def main() -> None:
    """On each rank."""
    words = argparse.ArgumentParser()
    words.add_argument("--network", help="emulate the links of this preset; the network that is there without it")
    words.add_argument("--seconds", type=float, default=60.0, help="time that the heats may take")
    words.add_argument("--quick", action="store_true")
    given = words.parse_args()
    world = MPI.COMM_WORLD
    say: Callable[..., None] = tell if world.rank == 0 else lambda **what: None
    comm = MpiCommunicator(world.Dup()) if given.network is None else LinkedCommunicator(world.Dup(), Network.of(given.network))
    found = calibrate(comm)
    network = Network.of(given.network) if given.network is not None else found
    say(kind="calibration", latency=found.latency, bandwidth=found.bandwidth, library=re.split(r"[,\n\0]", MPI.Get_library_version())[0])
    peers = {} if given.network is not None else peers_of(world)
    track = Track(comm, network, peers)
    heats = course(world.size, given.network is not None, given.quick)
    ends = time.perf_counter() + given.seconds
    for index, heat in enumerate(heats):
        left = world.bcast(ends - time.perf_counter())
        say(kind="heat", index=index, heats=len(heats), nbytes=heat.nbytes, wire=heat.entries[0].wire)
        if left <= 0:
            say(kind="late", left=len(heats) - index)
            break
        run(track, index, heat, left * heat.weight / sum(later.weight for later in heats[index:]), say)
    if GLOO in peers:
        from torch import distributed

        distributed.destroy_process_group()


def run(track: Track, index: int, heat: Heat, seconds: float, say: Callable[..., None]) -> None:
    """Collective. One heat, told entry by entry."""
    for found in track.run(heat, seconds):
        kind = "left out" if "left_out" in found else "timing"
        say(kind=kind, heat=index, nbytes=heat.nbytes, **(found | {"entry": asdict(found["entry"])}))


def peers_of(world: MPI.Intracomm) -> dict[str, Callable[[Array], Callable[[], None]]]:
    """Collective. MPI's own blocking all-reduce, and gloo's where `MASTER_ADDR` says where its ranks meet."""
    own = world.Dup()
    peers: dict[str, Callable[[Array], Callable[[], None]]] = {
        MPI_SUM: lambda buffer: partial(own.Allreduce, MPI.IN_PLACE, buffer),
        MPI_MEAN: lambda buffer: partial(_mean, own, buffer),
        GLOO: partial(_no_gloo),
    }
    if "MASTER_ADDR" in os.environ:
        import torch
        from torch import distributed

        distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)

        def gloo(buffer: Array) -> Callable[[], None]:
            return partial(distributed.all_reduce, torch.from_numpy(buffer))

        peers[GLOO] = gloo
    assert set(peers) == set(PEERS)
    return peers


def _mean(comm: MPI.Intracomm, buffer: Array) -> None:
    comm.Allreduce(MPI.IN_PLACE, buffer)
    np.multiply(buffer, 1 / comm.size, out=buffer)


def _no_gloo(buffer: Array) -> Any:
    raise WorkbenchError("MASTER_ADDR does not say where gloo's ranks meet")


if __name__ == "__main__":
    main()
