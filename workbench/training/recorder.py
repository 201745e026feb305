"""Where the time of a step goes: marks on the training thread, one row per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from workbench.arena import Arena
from workbench.comm.base import Communicator
from workbench.strategies.base import Exchange, Update
from workbench.telemetry import NO_SKETCH, SKETCH
from workbench.training.journal import Journal

SAMPLED: Final = 20
"""Every so many steps the gradient's norm, the sketch, the spans and the traffic per peer are recorded too."""


@final
class Recorder:
    """The records of one rank. The marks of a step follow each other without a gap, so its phases add up to its wall time.

    `start` is the communicator's clock at the start of the run on rank 0; a row's times count from there.
    """

    def __init__(self, journal: Journal, rank: int, comm: Communicator, start: float, sketch: Sketch | None = None) -> None:
        self.journal, self.rank, self._comm, self._now, self._start = journal, rank, comm, comm.now, start
        self._append = journal.append
        self._sketch = sketch
        self._phases = {"load": 0.0, "compute": 0.0, "update": 0.0, "exchange": 0.0}
        self._spans: list[tuple[str, float, float]] | None = []  # None at the steps that are not sampled
        self._notes: Mapping[str, str] = {}
        self._told = list(zip(comm.traffic.sent_bytes, comm.traffic.sent_messages, strict=True))
        self._updates = 0
        self.restart()

    def seconds(self) -> float:
        """Now, since the start of the run."""
        return self._now() - self._start

    def restart(self) -> None:
        """The next step begins now: what came before (a pause, a validation) belongs to no step."""
        self._began = self._last = self._now()
        traffic = self._comm.traffic
        self._sent = (traffic.total_sent_bytes, traffic.received_bytes, traffic.total_sent_messages)
        self._hidden, self._behind = self._comm.hidden_seconds, 0.0
        self._waited = self._comm.beacon.waited

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent in `phase`. What was under way then was hidden, unless training was blocked anyway."""
        now, hidden = self._now(), self._comm.hidden_seconds
        if phase != "exchange":
            self._behind += hidden - self._hidden
        self._hidden = hidden
        self._phases[phase] += now - self._last
        if self._spans is not None:
            self._spans.append((phase, self._last, now))
        self._last = now

    def step(self, step: int, epoch: int, samples: int, loss: float, learning_rate: float, exchange: Exchange, arena: Arena) -> None:
        """The step is done: its row, and the next step begins."""
        phases, traffic, sent = self._phases, self._comm.traffic, self._sent
        behind, self._behind = self._behind, 0.0
        norm = math.nan
        sketch: tuple[float, ...] = NO_SKETCH
        if self._spans is not None:
            norm = float(torch.linalg.vector_norm(arena.gradients))
            if self._sketch is not None:
                sketch = self._sketch.of(arena.parameters)
            for kind, began, ended in self._spans:
                self._append("spans", (self.rank, step, kind, step, -1, began - self._start, ended - self._start))
            self.traffic(step)
        self._sent = (traffic.total_sent_bytes, traffic.received_bytes, traffic.total_sent_messages)
        self._append(
            "steps",
            (
                self.rank,
                step,
                epoch,
                samples,
                loss,
                learning_rate,
                self._began - self._start,
                phases["load"],
                phases["compute"],
                phases["update"],
                phases["exchange"],
                behind,
                exchange.staleness,
                exchange.weight,
                self._sent[0] - sent[0],
                self._sent[1] - sent[1],
                self._sent[2] - sent[2],
                norm,
                sketch,
            ),
        )
        for phase in phases:
            phases[phase] = 0.0
        self._spans = [] if (step + 1) % SAMPLED == 0 else None
        self._began = self._last

    def served(self, update: Update) -> None:
        """Of a server: what a worker has sent was applied. Busy is the time since the last one in which it did not wait."""
        now, waited = self._now(), self._comm.beacon.waited
        busy, self._last, self._waited = now - self._last - (waited - self._waited), now, waited
        row = (self.rank, update.number, update.worker, update.clock, update.staleness, now - self._start, busy)
        self._append("server", row)
        self._updates += 1
        if self._updates % SAMPLED == 0:
            self.traffic(update.clock)

    def traffic(self, step: int) -> None:
        """What has gone to each peer since the last time."""
        sent = self._comm.traffic
        for peer, (nbytes, messages) in enumerate(zip(sent.sent_bytes, sent.sent_messages, strict=True)):
            told = self._told[peer]
            if (nbytes, messages) != told:  # may be counted by another thread just now: either is told next time
                self._append("traffic", (self.rank, step, peer, nbytes - told[0], messages - told[1]))
                self._told[peer] = (nbytes, messages)

    def validation(self, rank: int, step: int, epoch: int, samples: int, loss: float, accuracy: float) -> None:
        """A model was validated: `rank`'s own, or the answer of all (-1)."""
        self._append("validation", (rank, step, epoch, samples, loss, accuracy, self.seconds()))

    def notes(self, notes: Mapping[str, str], step: int) -> None:
        """What the exchange has decided for which parameter; rank 0 records it when it is new."""
        if notes is not self._notes:
            self._notes = notes
            if notes and self.rank == 0:
                self.event("exchange", step, notes=dict(notes))

    def event(self, kind: str, step: int, **what: Any) -> None:
        """Something happened on this rank."""
        self.journal.event(kind, **{"rank": self.rank, "step": step, "seconds": round(self.seconds(), 6), **what})


@final
class Sketch:
    """A seeded count-sketch of a flat tensor (n,): `SKETCH` sums of its numbers with random signs (Alon, Matias and Szegedy, 1996).

    The same seed gives the same signs on every rank, so the distance of two ranks' parameters can be told from their
    sketches. Two passes over the parameters; scratch space of n floats.
    """

    def __init__(self, like: Tensor, seed: int) -> None:
        length = like.numel()
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8)
        self._signs = (signs * 2 - 1).to(device=like.device, dtype=like.dtype)
        self._scratch = torch.zeros(-(-length // SKETCH) * SKETCH, dtype=like.dtype, device=like.device)
        self._used = self._scratch[:length]
        self._rows = self._scratch.view(-1, SKETCH)

    def of(self, parameters: Tensor) -> tuple[float, ...]:
        """The sketch of `parameters`, shape (n,)."""
        torch.mul(parameters, self._signs, out=self._used)
        return tuple(self._rows.sum(0).tolist())
