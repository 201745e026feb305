"""Whether records get lost, and what it costs to follow them: 4 ranks that record 2000 steps a second each."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from typing import Any

import psutil

from workbench.benchmarks.figures import Figure
from workbench.store import Rows, read_table

RANKS, RATE = 4, 2000

_due = 0.0


def paced(model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """A loss that costs next to nothing and comes at most `RATE` times a second."""
    global _due
    now = time.perf_counter()
    _due = max(_due + 1 / RATE, now - 0.05)  # a rank that was held up catches up for a while
    if _due > now:
        time.sleep(_due - now)
    return next(model.parameters()).square().mean(), {}


def measure(quick: bool = False) -> list[Figure]:
    """A real job on a real cluster, its step made short; every record is counted where the notebook gets it and on the disk."""
    from workbench.cluster.mpi import Cluster
    from workbench.job import Job
    from workbench.strategies import Gossip

    seconds = 10 if quick else 60
    job = Job(model_options={"hidden": [1]}, steps=seconds * RATE, batch_size=1, loss=f"{__name__}:paced", strategy=Gossip(every=2000))
    seen: Counter[str] = Counter()
    expected: dict[str, int] = {}
    lost = doubled = 0

    def count(source: str, table: str, first: int, rows: Rows) -> None:
        nonlocal lost, doubled
        if table == "steps":
            lost += max(0, first - expected.get(source, 0))
            doubled += max(0, expected.get(source, 0) - first)
            expected[source] = first + len(rows)
            seen[source] += len(rows)

    with Cluster(RANKS, name=f"bench-telemetry-{os.getpid()}", folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
        run = cluster.train(job)
        assert run.feed is not None
        run.feed.subscribe(count)
        while not run.rows("steps").size:
            time.sleep(0.01)
        me, start = psutil.Process(), time.perf_counter()
        before, rows_before = sum(me.cpu_times()[:2]), seen.total()
        time.sleep(seconds * 0.8)
        wall, cpu, rate = time.perf_counter() - start, sum(me.cpu_times()[:2]) - before, seen.total() - rows_before
        run.wait()
        steps = read_table(run.folder, "steps")
    on_disk = len(steps)
    numbers = sum(len(set(steps[steps["rank"] == rank]["step"])) for rank in range(RANKS))
    followed = f"{rate / wall:.0f} records/s arrived for {wall:.0f} s, {seen.total()} in all"
    return [
        Figure.at_most("records lost on the way to the notebook", lost + max(0, on_disk - seen.total()), 0, "", followed),
        Figure.at_most("records doubled on the way to the notebook", doubled, 0, ""),
        Figure.at_most("records missing or doubled on the disk", abs(seconds * RATE * RANKS - on_disk) + on_disk - numbers, 0, "", f"{on_disk} rows"),
        Figure.at_most("client: share of a core while following", 100 * cpu / wall, 5, "%"),
    ]
