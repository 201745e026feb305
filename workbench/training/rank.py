"""What one rank does in a run, from building the model to writing the answer."""

from __future__ import annotations

import socket
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from workbench import data, models
from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.comm.staging import Staged
from workbench.errors import Aborted, PeerLost
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.strategies.base import Worker
from workbench.training.checkpoint import save_model
from workbench.training.clock import start_of_run
from workbench.training.control import Control, Inbox
from workbench.training.evaluation import Answer, evaluate, to_device
from workbench.training.journal import Journal
from workbench.training.loop import train
from workbench.training.losses import loss_named
from workbench.training.readiness import Charge, Free, readiness
from workbench.training.recorder import Recorder, Sketch

NOT_THE_USERS: Final = (Path(__file__).parents[1], *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
"""Folders whose code a user has not written: this package, Python and what is installed into it."""

OTHER_START: Final = "the model began with other parameters than on worker 0 and was given those; does it draw random numbers of its own?"

OWN_MODELS: Final = 64
"""Of a strategy whose workers differ, so many write their own model beside the answer."""


@dataclass
class Place:
    """Where a rank runs, and what is special about it there."""

    device: torch.device
    host: str = ""
    charge: Charge | None = None
    """Of virtual ranks: told what a step has done."""
    load: Callable[[Job], data.Split] = lambda job: data.load(job.data, job.data_options, job.seed)
    """The job's data; virtual ranks, which share a process, share it."""

    def __post_init__(self) -> None:
        self.host = self.host or socket.gethostname()


def run_rank(job: Job, comm: Communicator, journal: Journal, inbox: Inbox, folder: Path, place: Place) -> dict[str, Any]:
    """Collective. Train as `job` says; {"rank", "status": "done" or "stopped", "steps"}.

    Records go to `journal`, commands come from `inbox`. A failure is recorded as an `error` event, told to the other
    ranks, and raised.
    """
    rank = RankRun(job, comm, journal, inbox, folder, place)
    try:
        return rank.run()
    except Aborted as error:
        rank.event("abort", message=str(error))
        raise
    except Exception as error:
        rank.event("error", **failure(error))
        if not isinstance(error, PeerLost):  # of a lost peer the others learn by themselves, or from its own farewell
            comm.farewell(f"{type(error).__name__}: {error}")
        raise


def failure(error: BaseException) -> dict[str, Any]:
    """An error as plain words: its type, its message, where in the user's code it was raised (else where at all), and the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in NOT_THE_USERS)]
    last = (users or frames)[-1:]
    where = "".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last)
    return {
        "error": type(error).__name__,
        "message": str(error),
        "where": where,
        "lost": error.rank if isinstance(error, PeerLost) else None,
        "traceback": "".join(traceback.format_exception(error)),
    }


class RankRun:
    """One rank in one run."""

    def __init__(self, job: Job, comm: Communicator, journal: Journal, inbox: Inbox, folder: Path, place: Place) -> None:
        self.job, self.comm, self.journal, self.inbox, self.folder, self.place = job, comm, journal, inbox, folder, place
        self.worker: Worker | None = None
        self.recorder: Recorder | None = None

    def event(self, kind: str, **what: Any) -> None:
        """An event of this rank, whether or not training has begun."""
        step = self.worker.step if self.worker is not None else 0
        if self.recorder is not None:
            self.recorder.event(kind, step, **what)
        else:
            self.journal.event(kind, rank=self.comm.rank, step=step, seconds=0.0, **what)

    def run(self) -> dict[str, Any]:
        """Build, train, finish, validate the answer, write it down."""
        self.prepare()
        self.train(self.steps)
        return self.conclude()

    def prepare(self) -> None:
        """Collective. Everything up to the first step."""
        job, comm, place, strategy = self.job, self.comm, self.place, self.job.strategy
        self.split = place.load(job)
        self.module = models.build(job.model, job.model_options, self.split, job.seed).to(place.device).train()
        self.loss_of = loss_named(job.loss)
        self.arena = arena = Arena(self.module)
        optimizer = SGD(job.momentum, job.weight_decay)
        if "server" in strategy.roles(comm.size):
            raise ValueError(f"{strategy} has servers, which this version does not run yet")
        workers, index = comm.size, comm.rank
        self.shards = shards = data.Shards(len(self.split.train), workers, index, job.batch_size, job.seed, job.data)
        self.steps = job.steps if job.steps is not None else (job.epochs or 1) * shards.steps_per_epoch
        # the model's own random numbers (dropout) differ from worker to worker, but not from run to run
        torch.manual_seed(int(np.random.default_rng([job.seed, index]).integers(2**63)))
        self.worker = Worker(
            arena=arena,
            module=self.module,
            optimizer=optimizer,
            batch_size=job.batch_size,
            learning_rate=lambda: self.control.learning_rate,
            rng=np.random.default_rng([job.seed, index, 1]),
            index=index,
            workers=workers,
        )
        self.answers = comm.channel(0, counted=False)
        self.answer = Answer(self.answers, arena)
        self._agree()
        self.exchange = strategy.exchange(comm.channel(1), self.worker)
        start, clock_error = start_of_run(self.answers)
        self.recorder = Recorder(self.journal, comm.rank, comm, start, Sketch(arena.parameters, job.seed))
        steering = comm.channel(2, counted=False)
        self.control = Control(self.inbox, steering, strategy.lockstep, strategy.period, self.recorder, optimizer, job.learning_rate)
        self.recorder.event(
            "start",
            0,
            host=place.host,
            device=str(place.device),
            workers=workers,
            steps=self.steps,
            steps_per_epoch=shards.steps_per_epoch,
            dropped_samples=shards.dropped,
            parameters=arena.parameters.numel(),
            model_bytes=arena.state.numel() * arena.state.element_size(),
            clock_error_seconds=clock_error,
        )
        self.batches = Batches(self.split.train, shards, place.device)

    def _agree(self) -> None:
        """Collective. All workers must train the same thing: compare its sizes, then take the parameters of worker 0."""
        sizes = {
            "steps": self.steps,
            "training samples": len(self.split.train),
            "validation samples": len(self.split.validation),
            "trainable parameters": self.arena.parameters.numel(),
            "parameters and buffers": self.arena.state.numel(),
            "bytes of a parameter": self.arena.state.element_size(),
        }
        bounds = np.array([[size, -size] for size in sizes.values()])
        self.answers.wait(self.answers.iallreduce(bounds, "min"))
        for name, (least, most) in zip(sizes, bounds, strict=True):
            if least != -most:
                raise ValueError(
                    f"the ranks would not train the same: the number of {name} is {least} on one rank and {-most} on another; "
                    "a model or data callable must give the same on every rank (shards are cut for it)"
                )
        staged = Staged(self.arena.spare())
        if self.comm.rank == 0:
            staged.tensor.copy_(self.arena.state)
            staged.fetch()
        self.answers.wait(self.answers.iallreduce(staged.host))
        staged.store()
        if not torch.equal(staged.tensor, self.arena.state):
            self.journal.event("warning", rank=self.comm.rank, step=0, seconds=0.0, message=OTHER_START)
            self.arena.state.copy_(staged.tensor)

    def train(self, steps: int) -> None:
        """Collective where the strategy is. Go on to step `steps`, or until told to stop."""
        assert self.worker is not None
        assert self.recorder is not None
        self.recorder.restart()
        charge = self.place.charge
        with readiness(self.job.strategy, self.comm, self.worker, self.exchange, charge) as backward:
            train(
                self.worker,
                self.exchange,
                self.batches,
                self.loss_of,
                backward,
                self.control,
                self.recorder,
                self.validate_epoch,
                steps=steps,
                steps_per_epoch=self.shards.steps_per_epoch,
                charge=charge or Free(),
            )

    def validate_epoch(self, epoch: int) -> None:
        """Between epochs: the answer where the workers share a step, each its own model where they do not."""
        assert self.worker is not None
        assert self.recorder is not None
        step, validation, device = self.worker.step - 1, self.split.validation, self.place.device
        if not self.job.strategy.lockstep:
            self.recorder.validation(self.comm.rank, step, epoch, *evaluate(self.module, validation, self.loss_of, device))
            return
        with self.answer.inside():
            result = evaluate(self.module, validation, self.loss_of, device, self.answers)
        if self.comm.rank == 0:
            self.recorder.validation(-1, step, epoch, *result)

    def conclude(self) -> dict[str, Any]:
        """Collective. Leave no message behind, validate the answer and write it down."""
        worker, recorder, comm = self.worker, self.recorder, self.comm
        assert worker is not None
        assert recorder is not None
        self.control.close()
        recorder.traffic(worker.step - 1)
        self.exchange.finish()
        if not self.job.strategy.lockstep and comm.rank < OWN_MODELS:
            save_model(self.folder, f"rank-{comm.rank:05d}", self.module, worker.step)
        with self.answer.inside():
            result = evaluate(self.module, self.split.validation, self.loss_of, self.place.device, self.answers)
            if comm.rank == 0:
                path = save_model(self.folder, "final", self.module, worker.step)
                recorder.validation(-1, worker.step - 1, max(0, worker.step - 1) // self.shards.steps_per_epoch, *result)
                recorder.event("checkpoint", worker.step, file=path.name)
        status = "stopped" if self.control.stopping and worker.step < self.steps else "done"
        recorder.event("end", worker.step, status=status)
        return {"rank": comm.rank, "status": status, "steps": worker.step}


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
