"""What it costs to know how far apart workers are: a sketch of the parameters now and then, as a share of the steps."""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from workbench.benchmarks.figures import Figure, on_ranks, tell

if TYPE_CHECKING:
    from workbench.job import Job


def measure(quick: bool = False) -> list[Figure]:
    """One rank, the real loop; its sketches are made right after a step, when the caches are full of other things."""
    return on_ranks(1, "workbench.benchmarks.drift", quick)


def main() -> None:
    """On the rank."""
    from workbench.job import Job

    quick = "--quick" in sys.argv
    jobs = {
        "mlp on digits, batch 32": (Job(model="mlp", data="digits", batch_size=32, steps=10**9), 5 if quick else 200),
        "resnet20 on digits, batch 32": (Job(model="resnet20", data="digits", batch_size=32, steps=10**9), 1 if quick else 5),
    }
    tell([share(name, job, blocks) for name, (job, blocks) in jobs.items()])


def share(name: str, job: Job, blocks: int) -> Figure:
    """Of the time of as many steps as have one sketch, that sketch. It is in the loop's own time too: the share is told a hair too small."""
    from workbench.benchmarks.loops import BenchLoop
    from workbench.training.recorder import SAMPLED, Sketch

    loop = BenchLoop(job)
    arena = loop.rank.arena
    sketch = Sketch(arena.parameters, job.seed)
    loop.run(SAMPLED)
    walls, sketches = [], []
    for _ in range(blocks):
        walls.append(loop.run(SAMPLED))
        start = time.perf_counter()
        sketch.of(arena.parameters)
        sketches.append(time.perf_counter() - start)
    loop.close()
    wall, taken = median(walls), median(sketches)
    detail = f"{1e6 * taken:.0f} us once in {SAMPLED} steps of {1e6 * wall / SAMPLED:.0f} us; {arena.parameters.numel():,} parameters"
    return Figure.at_most(f"{name}: share of the steps' time that measuring drift takes", 100 * taken / wall, 1, "%", detail)


if __name__ == "__main__":
    main()
