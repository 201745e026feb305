"""The two loops that are compared: one rank of the workbench, and plain PyTorch as a person would write it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from mpi4py import MPI
from torch import nn
from torch.nn import functional

from workbench import data, models
from workbench.comm.link import LinkedCommunicator
from workbench.comm.mpi import MpiCommunicator
from workbench.comm.network import Network
from workbench.job import Job
from workbench.store import Rows, read_table
from workbench.training.control import Inbox
from workbench.training.journal import Flusher, Journal
from workbench.training.rank import Place, RankRun


@final
class BenchLoop:
    """The real loop of a rank with its recorder, journal and flusher, in blocks of steps; validation left out.

    `network`: behind an emulated link of its own.
    """

    def __init__(self, job: Job, network: Network | None = None) -> None:
        world = MPI.COMM_WORLD
        comm = MpiCommunicator(world.Dup()) if network is None else LinkedCommunicator(world.Dup(), network)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        journal = Journal(f"rank-{world.rank:05d}.0", self.folder)
        self._flusher = Flusher(journal, push=lambda table, first, rows: None)
        self.rank = RankRun(job, comm, journal, Inbox(), self.folder, Place(torch.device("cpu")))
        self.rank.prepare()
        self.rank.validate_epoch = lambda epoch: None  # type: ignore[method-assign]  # the plain loop does not validate either

    def run(self, steps: int) -> float:
        """Seconds of so many more steps."""
        assert self.rank.worker is not None
        start = time.perf_counter()
        self.rank.train(self.rank.worker.step + steps)
        return time.perf_counter() - start

    def close(self) -> Rows:
        """Its records."""
        self._flusher.close()
        return read_table(self.folder, "steps")


@final
class PlainLoop:
    """The same model, data, order and optimizer in plain PyTorch; `wrap` may make the module data-parallel."""

    def __init__(self, job: Job, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> None:
        world = MPI.COMM_WORLD
        split: Any = data.load(job.data, job.data_options, job.seed)
        self.module = wrap(models.build(job.model, job.model_options, split, job.seed).train())
        self.optimizer = torch.optim.SGD(self.module.parameters(), job.learning_rate, momentum=job.momentum)
        self.shards = data.Shards(len(split.train), world.size, world.rank, job.batch_size, job.seed)
        self.inputs, self.targets = split.train.tensors
        self.order = self.shards.indices(0)
        self.position = 0
        self.backward_seconds = 0.0
        """Of the last `run`, the time in backward."""

    def run(self, steps: int) -> float:
        """Seconds of so many more steps."""
        start = time.perf_counter()
        self.backward_seconds = 0.0
        for _ in range(steps):
            epoch, batch = divmod(self.position, self.shards.steps_per_epoch)
            if batch == 0:
                self.order = self.shards.indices(epoch)
            chosen = self.order[batch]
            self.optimizer.zero_grad()
            loss = functional.cross_entropy(self.module(self.inputs[chosen]), self.targets[chosen])
            began = time.perf_counter()
            loss.backward()  # type: ignore[no-untyped-call]
            self.backward_seconds += time.perf_counter() - began
            self.optimizer.step()
            float(loss.detach())
            self.position += 1
        return time.perf_counter() - start
