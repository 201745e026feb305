"""How good a model is on the validation set, and which model is the answer of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch

from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.staging import Staged
from workbench.data import gather
from workbench.training.loop import Loss

BATCH = 256


@final
class Answer:
    """The model that a run would give if it ended now: the centre, else the mean of the workers; batch-norm statistics included."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._mean, self._own = Staged(arena.spare()), arena.spare()

    @contextmanager
    def inside(self, workers: Communicator, centre: torch.Tensor | None = None, weight: float = 1.0) -> Iterator[None]:
        """While inside, the arena (and so the module) holds the answer; afterwards this rank's own numbers again.

        Collective without a `centre`: the mean of the workers, each of which counts by its `weight`.
        """
        state, mean = self.arena.state, self._mean
        self._own.copy_(state)
        if centre is not None:
            state.copy_(centre)
        elif workers.size > 1:
            torch.mul(state, weight, out=mean.tensor)
            mean.fetch()
            weights = np.array([weight])
            workers.wait(workers.iallreduce(mean.host), workers.iallreduce(weights))
            mean.host /= weights[0]
            mean.store()
            state.copy_(mean.tensor)
        try:
            yield
        finally:
            state.copy_(self._own)


def evaluate(module: Any, dataset: Any, loss_of: Loss, device: torch.device, comm: Communicator | None = None) -> tuple[int, float, float]:
    """(samples, mean loss, accuracy as a fraction or NaN) of `module` on `dataset`.

    Collective if `comm` is given: every rank takes every P-th sample, and all get the result of all.
    """
    size, rank = (comm.size, comm.rank) if comm is not None else (1, 0)
    mine = torch.arange(rank, len(dataset), size)
    sums = np.zeros(3)  # samples, loss, accuracy
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(mine), BATCH):
                indices = mine[start : start + BATCH]
                loss, metrics = loss_of(module, to_device(gather(dataset, indices), device))
                sums += len(indices) * np.array([1.0, float(loss), float(metrics.get("accuracy", math.nan))])
    finally:
        module.train(training)
    if comm is not None and size > 1:
        comm.wait(comm.iallreduce(sums))
    samples = int(sums[0])
    return samples, float(sums[1] / samples), float(sums[2] / samples)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch (tensor, or tuple, list or dict of them) on the device."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
