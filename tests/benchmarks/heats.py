"""One small heat on each rank, for `test_ranks`."""

from __future__ import annotations

from functools import partial

from mpi4py import MPI

from workbench.benchmarks.calibration import calibrate
from workbench.benchmarks.heats import MPI_MEAN, Entry, Heat, Track
from workbench.benchmarks.ranks import tell
from workbench.comm.mpi import MpiCommunicator

if __name__ == "__main__":
    world = MPI.COMM_WORLD
    comm = MpiCommunicator(world.Dup())
    found = calibrate(comm, rounds=1)
    track = Track(comm, found, {MPI_MEAN: lambda buffer: partial(world.Allreduce, MPI.IN_PLACE, buffer)})
    heat = Heat(1 << 16, (Entry("ring"), Entry("native", "int8"), Entry("ring", "int8"), Entry(MPI_MEAN)))
    lines = [line | {"entry": [line["entry"].collective, line["entry"].wire]} for line in track.run(heat, 0.05)]
    if world.rank == 0:
        tell(latency=found.latency, bandwidth=found.bandwidth)
        for line in lines:
            tell(**line)
