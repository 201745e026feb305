"""What a step costs on one rank beyond a plain PyTorch loop, and what its record says of it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from workbench.benchmarks.figures import Figure, on_ranks, tell, turns


def measure(quick: bool = False) -> list[Figure]:
    """One rank, the real loop with its recorder and flusher, beside a plain loop of the same model, data and optimizer."""
    return on_ranks(1, "workbench.benchmarks.step", quick)


def main() -> None:
    """On the rank."""
    from workbench.job import Job

    quick = "--quick" in sys.argv
    rounds = 5 if quick else 25
    large = Job(model="resnet20", data="synthetic-images", batch_size=64, steps=10**9)
    small = Job(model="mlp", data="digits", batch_size=32, steps=10**9)
    ours, plain, again, explained = compare(large, steps=3 if quick else 8, rounds=rounds)
    detail = f"plain {plain * 1e3:.1f} ms, workbench {ours * 1e3:.1f} ms; A/A {again / plain:.3f}"
    figures = [
        Figure.at_most("resnet20, batch 64: step over a plain loop", ours / plain, 1.02, "x", detail),
        Figure.at_least("resnet20, batch 64: wall time that the phases explain", 100 * explained, 98, "%"),
    ]
    ours, plain, again, explained = compare(small, steps=40 if quick else 200, rounds=rounds)
    detail = f"plain {plain * 1e6:.0f} us, workbench {ours * 1e6:.0f} us; A/A {(again - plain) * 1e6:+.0f} us"
    figures += [
        Figure.at_most("mlp, batch 32: cost of a step beyond a plain loop", (ours - plain) * 1e6, 150, "us", detail),
        Figure.at_least("mlp, batch 32: wall time that the phases explain", 100 * explained, 98, "%"),
        Figure.at_most("recorder on the training thread", recorder() * 1e6, 10, "us", "marks and row of a step, mlp"),
    ]
    tell(figures)


def compare(job: object, steps: int, rounds: int) -> tuple[float, float, float, float]:
    """Median seconds of a step: ours, a plain loop's, that plain loop's again; and the share of our wall time in the phases."""
    import numpy as np

    from workbench.benchmarks.loops import BenchLoop, PlainLoop
    from workbench.job import Job
    from workbench.telemetry import PHASES

    assert isinstance(job, Job)
    bench, loop, other = BenchLoop(job), PlainLoop(job), PlainLoop(job)
    walls, theirs, again = turns(rounds, lambda: bench.run(steps), lambda: loop.run(steps), lambda: other.run(steps))
    rows = bench.close()[steps:]  # without the round that does not count
    phases = np.sum([rows[f"{phase}_seconds"].astype(np.float64).reshape(rounds, steps) for phase in PHASES], axis=(0, 2))
    explained = median(inside / wall for inside, wall in zip(phases, walls, strict=True))
    return median(walls) / steps, median(theirs) / steps, median(again) / steps, float(explained)


def recorder() -> float:
    """Mean seconds that the recorder takes of a step: its marks and the row, sketch and norm where they are due."""
    from mpi4py import MPI

    from workbench.arena import Arena
    from workbench.comm.mpi import MpiCommunicator
    from workbench.models import MLP
    from workbench.recipes.sgd import SGD
    from workbench.strategies import Exchange, Worker
    from workbench.training.journal import Journal
    from workbench.training.recorder import Recorder, Sketch

    arena = Arena(MLP().build((1, 8, 8), 10))
    comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
    records = Recorder(Journal("rank-00000.0", Path(tempfile.gettempdir())), 0, comm, 0.0, Sketch(arena.parameters, 0))
    worker = Worker(arena, arena.module, SGD(), 32, lambda: 0.1, np.random.default_rng(0), 0, 1)
    exchange, steps = Exchange(comm, worker), 20_000
    start = time.perf_counter()
    for step in range(steps):
        for phase in ("exchange", "load", "compute", "exchange", "update", "exchange"):
            records.mark(phase)
        records.step(step, 0, 32, 0.5, 0.1, exchange, arena)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
