"""Two ranks beside torch's DistributedDataParallel on gloo: the same model, data, batch and threads, in the same processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

from workbench.benchmarks.figures import Figure, on_ranks, tell, turns

RANKS = 2


def measure(quick: bool = False) -> list[Figure]:
    """Samples per second of Synchronous(Native()) over those of DDP."""
    return on_ranks(RANKS, "workbench.benchmarks.ddp", quick)


def main() -> None:
    """On each rank."""
    from mpi4py import MPI
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from workbench.benchmarks.loops import BenchLoop, PlainLoop
    from workbench.collectives import Native
    from workbench.job import Job
    from workbench.strategies import Synchronous

    steps, rounds = (4, 4) if "--quick" in sys.argv else (8, 25)
    world = MPI.COMM_WORLD
    distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)

    def ddp(module: object) -> DistributedDataParallel:
        return DistributedDataParallel(module, gradient_as_bucket_view=True)

    def together(run: Callable[[int], float]) -> Callable[[], float]:
        def block() -> float:
            world.Barrier()
            slowest: float = max(world.allgather(run(steps)))
            return slowest

        return block

    job = Job(model="resnet20", data="synthetic-images", batch_size=32, steps=10**9, strategy=Synchronous(collective=Native()))
    bench, loop, other = BenchLoop(job), PlainLoop(job, ddp), PlainLoop(job, ddp)
    ours, theirs, again = turns(rounds, together(bench.run), together(loop.run), together(other.run))
    bench.close()
    distributed.destroy_process_group()
    if world.rank == 0:
        samples, ratio = steps * world.size * job.batch_size, median(theirs) / median(ours)
        pairs = median(there / here for here, there in zip(ours, theirs, strict=True))
        detail = f"workbench {samples / median(ours):.0f}, DDP {samples / median(theirs):.0f} samples/s"
        detail += f"; A/A {median(theirs) / median(again):.3f}; median of pairs {pairs:.3f}"
        tell([Figure.at_least("2 ranks, resnet20, batch 32: samples/s over DDP with gloo", ratio, 1.0, "x", detail)])


if __name__ == "__main__":
    main()
