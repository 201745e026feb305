"""How fast a command takes effect on ranks that are busy."""

from __future__ import annotations

import os
import queue
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from workbench.benchmarks.figures import Figure

RANKS = 4


def measure(quick: bool = False) -> list[Figure]:
    """From the call in the notebook until the notebook has heard from every rank that it has obeyed, and at which step."""
    from workbench.cluster.mpi import Cluster
    from workbench.job import Job

    rounds = 5 if quick else 40
    told: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
    apart = 0

    def until_all(command: Callable[[], Any], kind: str) -> float:
        nonlocal apart
        start = time.perf_counter()
        command()
        heard: dict[int, dict[str, Any]] = {}
        while len(heard) < RANKS:
            when, event = told.get(timeout=30)
            if event["kind"] == kind:
                heard[event["rank"]] = event
        apart += len({event["step"] for event in heard.values()}) > 1
        return when - start

    with Cluster(RANKS, name=f"bench-command-{os.getpid()}", folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
        run = cluster.train(Job(model="resnet20", data="digits", batch_size=16, steps=10**6))
        assert run.feed is not None
        run.feed.subscribe_events(lambda event: told.put((time.perf_counter(), event)))
        while not run.rows("steps").size:
            time.sleep(0.01)
        changes, pauses, resumes = [], [], []
        for turn in range(rounds):
            changes.append(until_all(lambda turn=turn: run.change(learning_rate=0.01 + turn / 1e4), "change"))  # type: ignore[misc]
            pauses.append(until_all(run.pause, "pause"))
            resumes.append(until_all(run.resume, "resume"))
            time.sleep(0.05)
        run.stop()
        run.wait()
    step = 1e3 * float(median(run.frame()["compute_seconds"]))
    return [
        Figure.at_most(
            "change to its effect on 4 busy ranks", 1e3 * median(changes), 100, "ms", f"median of {rounds}; a step computes {step:.0f} ms"
        ),
        Figure.at_most("pause to its effect", 1e3 * median(pauses), 100, "ms", f"slowest {1e3 * max(pauses):.0f} ms"),
        Figure.at_most("resume to its effect", 1e3 * median(resumes), 100, "ms", f"slowest {1e3 * max(resumes):.0f} ms"),
        Figure.at_most("commands applied at different steps", apart, 0, "", f"of {3 * rounds}"),
    ]
