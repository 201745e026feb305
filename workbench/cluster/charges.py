"""What a step costs on a virtual rank: given by the device, or measured on this machine once per model, data and batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
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


@final
@dataclass(frozen=True)
class Costs:
    """Seconds of a step on one virtual rank; `measured` names those that this machine was asked for."""

    compute_seconds: float
    update_seconds: float
    measured: tuple[str, ...] = ()

    def to_json(self, batch_size: int) -> dict[str, Any]:
        """As a run's cluster.json has it."""
        per_sample = self.compute_seconds / batch_size
        return {"seconds_per_sample": per_sample, "seconds_per_update": self.update_seconds, "measured": list(self.measured)}


def costs_of(job: Job, modules: Mapping[str, str], split: Split, device: Device, known: dict[str, tuple[float, float]]) -> Costs:
    """The costs of a job's step on `device`. What it does not give is measured, or taken from `known`, which keeps it.

    `modules` are the hashes of the user's modules that the job needs: what was measured of another code does not count.
    """
    measured = tuple(name for name in ("seconds_per_sample", "seconds_per_update") if getattr(device, name) is None)
    compute, update = (device.seconds_per_sample or 0.0) * job.batch_size, device.seconds_per_update or 0.0
    if measured:
        names = ("model", "model_options", "data", "data_options", "loss", "batch_size", "momentum", "weight_decay")
        key = json.dumps([dict(modules), *(getattr(job, name) for name in names)], sort_keys=True)
        if key not in known:
            known[key] = measure(job, split)
        compute = known[key][0] if device.seconds_per_sample is None else compute
        update = known[key][1] if device.seconds_per_update is None else update
    return Costs(compute, update, measured)


def measure(job: Job, split: Split) -> tuple[float, float]:
    """Seconds of (forward and backward, update) of one batch on this machine's processor: medians of a few real steps."""
    state = torch.get_rng_state()
    try:
        module = models.build(job.model, job.model_options, split, job.seed).train()
        arena, loss_of = Arena(module), loss_named(job.loss)
        optimizer = SGD(arena, job.momentum, job.weight_decay)
        batch = gather(split.train, torch.arange(job.batch_size) % len(split.train))
        computes: list[float] = []
        updates: list[float] = []
        began = time.perf_counter()
        for _ in range(WARM_STEPS + MEASURED_STEPS):
            start = time.perf_counter()
            arena.clear()
            loss_of(module, batch)[0].backward()
            arena.heal()
            middle = time.perf_counter()
            optimizer.step(arena, 0.0)
            computes.append(middle - start)
            updates.append(time.perf_counter() - middle)
            if time.perf_counter() - began > LONGEST_SECONDS:
                break
        warm = WARM_STEPS if len(computes) > WARM_STEPS else 0
        return median(computes[warm:]), median(updates[warm:])
    finally:
        torch.set_rng_state(state)


def charge_to(comm: Communicator, costs: Costs, jitter: float, seed: int) -> Callable[[str], None]:
    """What charges a rank's clock with its steps: `jitter` is the standard deviation of the compute time as a share of it."""
    random = np.random.default_rng([seed, comm.rank, 2])

    def charge(what: str) -> None:
        if what == "update":
            comm.compute(costs.update_seconds)
        else:
            # a step never takes less than a tenth of its time, however wide the jitter
            factor = max(0.1, 1.0 + jitter * float(random.standard_normal())) if jitter else 1.0
            comm.compute(costs.compute_seconds * factor)

    return charge
