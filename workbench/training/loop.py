"""The training loop, short enough for a slide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workbench.errors import Diverged
from workbench.strategies.base import Exchange, Worker
from workbench.training.control import Control
from workbench.training.readiness import Backward
from workbench.training.recorder import Recorder

Loss = Callable[[Any, Any], tuple[Any, dict[str, Any]]]
"""(model, batch) -> (loss of shape (), metrics)"""


def train(
    worker: Worker,
    exchange: Exchange,
    batches: Callable[[int], tuple[int, Any]],
    loss_of: Loss,
    backward: Backward,
    control: Control,
    recorder: Recorder,
    after_epoch: Callable[[int], None],
    steps: int,
    steps_per_epoch: int,
    mark: Callable[[str], None],
) -> None:
    """One rank's training from its first step to its last, or until it is told to stop.

    `batches(step)` gives the number of samples and the batch; `backward` hands over buckets of gradients as they are complete, and its
    `charge` tells a virtual clock what was done; `mark` says for what the time since the last mark was.
    """
    arena, module, charge = worker.arena, worker.module, backward.charge
    while worker.step < steps and control.go_on(worker.step):
        mark("exchange")
        samples, batch = batches(worker.step)
        mark("load")
        arena.clear()
        loss, _ = loss_of(module, batch)
        backward(loss)
        value = float(loss.detach())
        mark("compute")
        if not math.isfinite(value):
            raise Diverged(
                f"the loss of rank {recorder.rank} is {value} at step {worker.step}; a smaller learning_rate than {worker.learning_rate():g} may help"
            )
        backward.complete()
        exchange.before_update()
        mark("exchange")
        exchange.update()
        charge.update(exchange.optimizer_share)
        mark("update")
        exchange.after_update()
        mark("exchange")
        epoch = worker.step // steps_per_epoch
        recorder.step(worker.step, epoch, samples, value, worker.learning_rate(), exchange, arena)
        recorder.notes(exchange.notes, worker.step)
        worker.step += 1
        if worker.step % steps_per_epoch == 0 and worker.step < steps:
            after_epoch(epoch)
            recorder.restart()
