"""What a step costs on a virtual rank: given by the device, or measured on this machine once per model, data and batch.

When in a step which gradient is complete is always measured, as a share of the step's compute time, where a strategy exchanges during backward.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch

from workbench import models
from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.network import Device
from workbench.data import Split, gather
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.training.losses import loss_named

WARM_STEPS: Final = 3
MEASURED_STEPS: Final = 9
LONGEST_SECONDS: Final = 5.0  # a slow model is measured with fewer steps, at least one


Arrivals = tuple[tuple[int, float], ...]
"""By parameter, in the order of the arena: (its end in the gradients, share of the compute time after which it and all before it are complete)."""


@final
@dataclass(frozen=True)
class Costs:
    """Seconds of a step on one virtual rank; `measured` names those that this machine was asked for."""

    compute_seconds: float
    update_seconds: float
    measured: tuple[str, ...] = ()
    arrivals: Arrivals = ()
    """When gradients are complete; nothing: all at the end."""

    def to_json(self, batch_size: int) -> dict[str, Any]:
        """As a run's cluster.json has it; `forward_share` is the share of the compute time before the first gradient is complete."""
        per_sample = self.compute_seconds / batch_size
        forward = {"forward_share": self.arrivals[0][1]} if self.arrivals else {}
        return {"seconds_per_sample": per_sample, "seconds_per_update": self.update_seconds, "measured": list(self.measured), **forward}


def costs_of(job: Job, modules: Mapping[str, str], split: Split, device: Device, known: dict[str, Any]) -> Costs:
    """The costs of a job's step on `device`. What it does not give is measured, or taken from `known`, which keeps it.

    `modules` are the hashes of the user's modules that the job needs: what was measured of another code does not count.
    """
    measured = tuple(name for name in ("seconds_per_sample", "seconds_per_update") if getattr(device, name) is None)
    compute, update = (device.seconds_per_sample or 0.0) * job.batch_size, device.seconds_per_update or 0.0
    names = ("model", "model_options", "data", "data_options", "loss", "batch_size", "momentum", "weight_decay")
    key = json.dumps([dict(modules), *(getattr(job, name) for name in names)], sort_keys=True)

    def asked(measure: Callable[[Job, Split], Any]) -> Any:
        found = f"{measure.__name__} {key}"
        if found not in known:
            known[found] = measure(job, split)
        return known[found]

    if measured:
        seconds = asked(measure_seconds)
        compute = seconds[0] if device.seconds_per_sample is None else compute
        update = seconds[1] if device.seconds_per_update is None else update
    return Costs(compute, update, measured, asked(measure_arrivals) if job.strategy.during_backward else ())


def measure_seconds(job: Job, split: Split) -> tuple[float, float]:
    """Seconds of (forward and backward, update) of one batch on this machine's processor: medians of a few real steps."""
    with _rehearsal(job, split) as (arena, forward):
        optimizer = SGD(job.momentum, job.weight_decay)

        def step() -> tuple[float, float]:
            start = time.perf_counter()
            arena.clear()
            forward().backward()
            arena.heal()
            middle = time.perf_counter()
            optimizer.step(arena, 0.0)
            return middle - start, time.perf_counter() - middle

        compute, update = _medians(step)
        return compute, update


def measure_arrivals(job: Job, split: Split) -> Arrivals:
    """When in a step which gradient is complete: medians of the times of hooks in a few real steps."""
    with _rehearsal(job, split) as (arena, forward):
        times = np.zeros(len(arena.trainable))

        def arrived(index: int) -> Callable[[Any], None]:
            def note(parameter: Any) -> None:
                times[index] = time.perf_counter()

            return note

        parameters: Any = arena.trainable
        for index, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(arrived(index))

        def step() -> list[float]:
            times[:] = np.inf  # of a parameter that gets no gradient: the end
            start = time.perf_counter()
            arena.clear()
            forward().backward()
            arena.heal()
            end = time.perf_counter()
            shares: list[float] = ((np.maximum.accumulate(times).clip(max=end) - start) / (end - start)).tolist()
            return shares

        ends = [segment.stop for segment in arena.segments.values()]
        return tuple(zip(ends, _medians(step), strict=False))  # the segments of frozen parameters and buffers come last


@contextmanager
def _rehearsal(job: Job, split: Split) -> Iterator[tuple[Arena, Callable[[], Any]]]:
    """A model and the loss of one batch; torch's random numbers are afterwards as they were."""
    state = torch.get_rng_state()
    try:
        module = models.build(job.model, job.model_options, split, job.seed).train()
        loss_of = loss_named(job.loss)
        batch = gather(split.train, torch.arange(job.batch_size) % len(split.train))
        yield Arena(module), lambda: loss_of(module, batch)[0]
    finally:
        torch.set_rng_state(state)


def _medians(step: Callable[[], Sequence[float]]) -> list[float]:
    """Of each figure that a step tells, over a few steps."""
    rows: list[Sequence[float]] = []
    began = time.perf_counter()
    while len(rows) < WARM_STEPS + MEASURED_STEPS and time.perf_counter() - began <= LONGEST_SECONDS:
        rows.append(step())
    found: list[float] = np.median(rows[WARM_STEPS if len(rows) > WARM_STEPS else 0 :], axis=0).tolist()
    return found


@final
class Charges:
    """Charges a rank's clock with its steps: `jitter` is the standard deviation of the compute time as a share of it."""

    def __init__(self, comm: Communicator, costs: Costs, jitter: float = 0.0, seed: int = 0) -> None:
        self.comm, self.costs, self.jitter = comm, costs, jitter
        self._random = np.random.default_rng([seed, comm.rank, 2])

    def compute(self) -> None:
        """Forward and backward at once."""
        self.comm.compute(self._compute_seconds())

    def backward(self, stops: Sequence[int]) -> Iterator[int]:
        """Forward and backward; yields k when the gradients before `stops[k]` are complete."""
        seconds, passed = self._compute_seconds(), 0.0
        for k, stop in enumerate(stops):
            share = self._share(stop)
            self.comm.compute(seconds * (share - passed))
            passed = share
            yield k
        self.comm.compute(seconds * (1.0 - passed))

    def update(self, share: float = 1.0) -> None:
        """The optimizer's update, of that share of the parameters."""
        self.comm.compute(self.costs.update_seconds * share)

    def _compute_seconds(self) -> float:
        # a step never takes less than a tenth of its time, however wide the jitter
        factor = max(0.1, 1.0 + self.jitter * float(self._random.standard_normal())) if self.jitter else 1.0
        return self.costs.compute_seconds * factor

    def _share(self, stop: int) -> float:
        """Of the compute time, until the gradients before `stop` are complete."""
        arrivals = self.costs.arrivals
        at = bisect_left(arrivals, stop, key=lambda arrival: arrival[0])
        return arrivals[at][1] if at < len(arrivals) else 1.0
