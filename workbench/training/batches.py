"""A worker's mini-batches, on its device."""

from __future__ import annotations

from typing import Any

import torch

from workbench import data
from workbench.training.evaluation import to_device


class Batches:
    """A worker's mini-batches by step, on its device."""

    def __init__(self, dataset: Any, shards: data.Shards, device: torch.device) -> None:
        self.dataset, self.shards, self.device = dataset, shards, device
        self._epoch = -1
        self._indices = torch.empty(0)

    def __call__(self, step: int) -> tuple[int, Any]:
        """(number of samples, batch) of step `step`."""
        epoch, position = divmod(step, self.shards.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._indices = epoch, self.shards.indices(epoch)
        indices = self._indices[position]
        return len(indices), to_device(data.gather(self.dataset, indices), self.device)
