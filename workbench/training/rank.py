"""What one rank does in a run, from building the model to writing the answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from workbench import data, models
from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.errors import Aborted, PeerLost
from workbench.job import Job
from workbench.recipes.sgd import SGD
from workbench.strategies.base import Exchange, Role, Server, Worker
from workbench.training.batches import Batches
from workbench.training.beginning import agree_on, take_over
from workbench.training.checkpoint import save_model
from workbench.training.clock import start_of_run
from workbench.training.control import Control, Inbox
from workbench.training.evaluation import Answer, evaluate
from workbench.training.failure import failure
from workbench.training.journal import Journal
from workbench.training.loop import train
from workbench.training.losses import loss_named
from workbench.training.pace import Pace
from workbench.training.readiness import Charge, Free, readiness
from workbench.training.recorder import Recorder, Sketch

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
        rank.keep_centre(error)
        raise
    except Exception as error:
        rank.event("error", **failure(error))
        rank.keep_centre(error)
        # of a lost peer the others learn by themselves, or from its own farewell; but a server misses no other
        if not isinstance(error, PeerLost) or (comm.outlives and rank.roles.count("server") > 1):
            comm.farewell(f"{type(error).__name__}: {error}")
        raise


class RankRun:
    """One rank in one run."""

    def __init__(self, job: Job, comm: Communicator, journal: Journal, inbox: Inbox, folder: Path, place: Place) -> None:
        self.job, self.comm, self.journal, self.inbox, self.folder, self.place = job, comm, journal, inbox, folder, place
        self.worker: Worker | None = None
        self.recorder: Recorder | None = None
        self.exchange: Exchange | None = None
        self.server: Server | None = None
        self.roles: tuple[Role, ...] = job.strategy.roles(comm.size)

    def event(self, kind: str, **what: Any) -> None:
        """An event of this rank, whether or not training has begun."""
        step = self.worker.step if self.worker is not None else 0
        if self.recorder is not None:
            self.recorder.event(kind, step, **what)
        else:
            self.journal.event(kind, rank=self.comm.rank, step=step, seconds=0.0, **what)

    def run(self) -> dict[str, Any]:
        """Build, train (or serve), finish, validate the answer, write it down."""
        self.prepare()
        if self.server is not None:
            self.serve(self.server)
        else:
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
        role = self.roles[comm.rank]
        workers, index = self.roles.count("worker"), self.roles[: comm.rank].count(role)
        self.shards = shards = data.Shards(len(self.split.train), workers, index % workers, job.batch_size, job.seed, job.data)
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
        self.housekeeping = comm.channel(0, counted=False)
        self.answer = Answer(arena)
        sizes = {
            "steps": self.steps,
            "training samples": len(self.split.train),
            "validation samples": len(self.split.validation),
            "trainable parameters": arena.parameters.numel(),
            "parameters and buffers": arena.state.numel(),
            "bytes of a parameter": arena.state.element_size(),
        }
        agree_on(sizes, self.housekeeping)
        if take_over(self.housekeeping, arena):
            self.event(
                "warning",
                message="the model began with other parameters than on worker 0 and was given those; does it draw random numbers of its own?",
            )
        self.peers = self._sharing(0, [self.roles.index(each) for each in self.roles])
        if strategy.outlives:
            comm.outlive()
        if role == "server":
            self.server = strategy.serving(comm.channel(1), self.worker)
        else:
            self.exchange = strategy.exchange(comm.channel(1), self.worker)
        start, clock_error = start_of_run(self.housekeeping)
        self.recorder = Recorder(self.journal, comm.rank, comm, start, Sketch(arena.parameters, job.seed))
        together = strategy.together(comm.size)
        share = together.count(together[comm.rank]) > 1
        steering = self._sharing(2, together) if len(set(together)) < comm.size else comm.channel(2, counted=False)
        self.control = Control(self.inbox, steering, share, strategy.period, self.recorder, optimizer, job.learning_rate)
        self.recorder.event(
            "start",
            0,
            host=place.host,
            device=str(place.device),
            role=role,
            ranks=comm.size,
            workers=workers,
            steps=self.steps,
            steps_per_epoch=shards.steps_per_epoch,
            dropped_samples=shards.dropped,
            parameters=arena.parameters.numel(),
            model_bytes=arena.state.numel() * arena.state.element_size(),
            clock_error_seconds=clock_error,
        )
        if comm.rank == 0 and (words := strategy.caution(workers, job.momentum)):
            self.event("warning", message=words)
        self.batches = Batches(self.split.train, shards, place.device)

    def _sharing(self, channel: int, numbers: Sequence[int]) -> Communicator:
        """Collective. For housekeeping: the ranks that have this rank's number."""
        comm = self.comm.channel(channel, counted=False)
        return comm.split(numbers[comm.rank]) if len(set(numbers)) > 1 else comm

    def train(self, steps: int) -> None:
        """Collective where the strategy is. Go on to step `steps`, or until told to stop."""
        assert self.worker is not None
        assert self.recorder is not None
        assert self.exchange is not None
        charge = self.place.charge
        pace = Pace(self.job.faults, self.recorder, self.inbox.sleep if charge is None else self.comm.compute)
        with readiness(self.job.strategy, self.comm, self.worker, self.exchange, charge, pace.hold) as backward:
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
                mark=pace.mark,
            )

    def serve(self, server: Server) -> None:
        """Answer the workers until they are done, and record what was applied."""
        assert self.worker is not None
        assert self.recorder is not None
        self.recorder.restart()
        charge, number = self.place.charge or Free(), -1
        for update in server.serve():
            if update.number != number:
                number = update.number
                charge.update(server.share)
            self.recorder.served(update)
            self.control.heed(self.worker.step)

    def validate_epoch(self, epoch: int) -> None:
        """Between epochs: the answer where the workers share a step; where they do not, each its own model, and worker 0 the centre."""
        assert self.worker is not None
        assert self.recorder is not None
        assert self.exchange is not None
        step, validation, device, centre = self.worker.step - 1, self.split.validation, self.place.device, self.exchange.centre
        if self.job.strategy.lockstep:
            with self.answer.inside(self.peers, centre):
                result = evaluate(self.module, validation, self.loss_of, device, self.peers)
            if self.comm.rank == 0:
                self.recorder.validation(-1, step, epoch, *result)
            return
        self.recorder.validation(self.comm.rank, step, epoch, *evaluate(self.module, validation, self.loss_of, device))
        if centre is not None and self.worker.index == 0:
            with self.answer.inside(self.peers, centre):
                self.recorder.validation(-1, step, epoch, *evaluate(self.module, validation, self.loss_of, device))

    def conclude(self) -> dict[str, Any]:
        """Collective among the ranks that live. Leave no message behind, validate the answer and write it down."""
        worker, recorder, rank = self.worker, self.recorder, self.comm.rank
        assert worker is not None
        assert recorder is not None
        self.control.close()
        if self.exchange is not None:
            self.exchange.finish()
        recorder.traffic(worker.step - 1)
        peers = self._living()
        if self.exchange is not None:
            self._write_down(peers, self.exchange, worker, recorder)
        status = "stopped" if self.control.stopping and worker.step < self.steps else "done"
        counts = dict(self.exchange.counts) if self.exchange is not None else {}
        recorder.event("end", worker.step, status=status, counts=counts)
        return {"rank": rank, "status": status, "steps": worker.step}

    def _living(self) -> Communicator:
        """Collective among the ranks that live. Those with this rank's role."""
        if not self.job.strategy.outlives:
            return self.peers
        living = self.housekeeping.survivors()
        if living.rank == 0:
            for lost in sorted(self.comm.lost):
                self.event("fault", rank=lost, message="its process died; the others went on")
        return living.split(self.roles.index(self.roles[self.comm.rank])) if "server" in self.roles else living

    def _write_down(self, peers: Communicator, exchange: Exchange, worker: Worker, recorder: Recorder) -> None:
        """Collective among workers. The answer, what it is worth, and where workers differ the model of each."""
        if not self.job.strategy.lockstep and self.comm.rank < OWN_MODELS:
            save_model(self.folder, f"rank-{self.comm.rank:05d}", self.module, worker.step)
        with self.answer.inside(peers, exchange.centre, exchange.weight):
            result = evaluate(self.module, self.split.validation, self.loss_of, self.place.device, peers)
            if peers.rank == 0:
                for which in ("final", "centre") if exchange.centre is not None else ("final",):
                    path = save_model(self.folder, which, self.module, worker.step)
                    recorder.event("checkpoint", worker.step, file=path.name)
                recorder.validation(-1, worker.step - 1, max(0, worker.step - 1) // self.shards.steps_per_epoch, *result)

    def keep_centre(self, error: BaseException) -> None:
        """The run ends without an answer: one rank writes down the newest centre that it knows, the only server or the first worker."""
        if self.worker is None or self.recorder is None:
            return
        failed = error.rank if isinstance(error, PeerLost) else -1 if isinstance(error, Aborted) else self.comm.rank
        gone = self.comm.lost | {failed}  # the same on all ranks: they hear of whoever fails
        servers, workers = ([rank for rank, each in enumerate(self.roles) if each == role] for role in ("server", "worker"))
        whole = len(servers) == 1 and servers[0] not in gone
        if self.comm.rank != (servers[0] if whole else min(set(workers) - gone or workers)):
            return
        if self.server is not None:
            self.server.settle()
        elif self.exchange is None or self.exchange.centre is None:
            return
        else:
            self.arena.state.copy_(self.exchange.centre)
        with contextlib.suppress(OSError):  # a full disk: why the run ended matters more
            path = save_model(self.folder, "centre", self.module, self.worker.step)
            self.event("checkpoint", file=path.name, message="the parts of its servers may differ by an update" if len(servers) > 1 else "")
