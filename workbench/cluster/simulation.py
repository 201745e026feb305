"""One run of a virtual world, in its process: all ranks, their records, the commands that reach them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from workbench.channel.messages import LIMIT, Rows
from workbench.channel.usercode import UserCode
from workbench.channel.verdict import verdict
from workbench.comm.network import Device, Network
from workbench.errors import Aborted, PeerLost
from workbench.store import read_json, write_json

if TYPE_CHECKING:
    from workbench.comm.base import Communicator
    from workbench.training.control import Inbox
    from workbench.training.journal import Journal

SOURCE: Final = "world.0"
STATES: Final = {"start": "running", "resume": "running", "pause": "paused", "stop": "stopping"}

Send = Callable[..., None]


@final
class Simulation:
    """A run as the process of a virtual world has it. Asked on the process's reading thread; `perform` runs on the main thread.

    `known` keeps what steps were measured to cost from run to run.
    """

    def __init__(
        self,
        run: str,
        job: dict[str, Any],
        directory: str,
        ranks: int,
        network: Network,
        device: Device,
        pace: Any,
        known: dict[str, Any],
        send: Send,
    ) -> None:
        self.run, self.job, self.directory, self.ranks = run, job, directory, ranks
        self.network, self.device, self.pace = network, device, pace
        self._known, self._send = known, send
        self.state = "starting"
        self.ended: dict[str, Any] | None = None
        self.events: list[dict[str, Any]] = []
        self._commands: list[tuple[int, str, dict[str, Any]]] = []
        self._aborted = False
        self._lock = threading.Lock()
        self._inbox: Inbox | None = None
        self._journal: Journal | None = None
        self._comms: dict[int, Communicator] = {}
        self._steps, self._served = np.zeros(ranks, np.int64), np.zeros(ranks, np.int64)

    # what can be asked

    def order(self, verb: str, options: dict[str, Any]) -> int:
        """Number a command and hand it to the ranks."""
        with self._lock:
            number = len(self._commands) + 1
            self._commands.append((number, verb, options))
            if self._inbox is not None:
                self._inbox.put(number, verb, options)
        return number

    def abort(self) -> None:
        """End at once."""
        self._aborted = True
        with self._lock:
            if self._inbox is not None:
                self._inbox.put(0, "abort")

    def report(self) -> dict[str, Any]:
        """How far it is: the state, what has been recorded, how it ended."""
        counts = {SOURCE: self._journal.counts()} if self._journal is not None else {}
        return {"run": self.run, "state": self.state, "counts": counts, "events": len(self.events), "ended": self.ended}

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> what it waits for since how many virtual seconds, and the steps it has done (of a server: its updates)."""
        now = max((comm.now() for comm in list(self._comms.values())), default=0.0)
        told = {}
        for rank in range(self.ranks):
            comm = self._comms.get(rank)
            operation, since = (comm.beacon.operation, comm.beacon.since) if comm is not None and self.ended is None else (None, 0.0)
            waiting = max(0.0, now - since) if operation is not None else 0.0
            told[rank] = {"state": self.state, "operation": operation, "since_seconds": waiting, "step": int(self._served[rank] or self._steps[rank])}
        return told

    def pull(self, table: str, since: int) -> tuple[int, Rows]:
        """(first, rows) of what has been recorded from `since` on: at most LIMIT rows."""
        if self._journal is None:
            raise ValueError(f"{self.run} has recorded nothing yet")
        first, rows = self._journal.pull(table, since)
        return first, rows[:LIMIT]

    # the run

    def perform(self, code: UserCode) -> None:
        """Train on all ranks; never raises: status.json and the outcome that is sent say how it ended."""
        from workbench.channel.output import Lines
        from workbench.training import surroundings
        from workbench.training.journal import Flusher, Journal

        surroundings.reset()
        folder = Path(self.run)
        journal = self._journal = Journal(SOURCE, folder)
        flusher = Flusher(journal, self._push, self._push_event)
        lines = Lines(folder / "world.out")
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            outcomes = self._train(folder, code, journal)
            lines.flush()
        flusher.close()
        ended = verdict({rank: self._complete(outcome) for rank, outcome in outcomes.items()}, {})
        with contextlib.suppress(OSError):  # a full disk, or the folder is gone; the notebook is told all the same
            write_json(folder / "status.json", ended)
        self.ended = ended
        self.state = ended["status"]
        self._send("outcome", run=self.run, ended=ended)

    def _train(self, folder: Path, code: UserCode, journal: Journal) -> dict[int, dict[str, Any]]:
        try:
            code.enter(self.directory)
            try:
                return self._simulate(folder, journal)
            finally:
                code.remember()
        except Aborted as error:
            return {0: self._outcome(0, status="aborted", message=str(error))}
        except BaseException as error:  # noqa: BLE001 (whatever a user's data or model raises: the outcome tells it)
            return {0: self._failed(0, error)}

    def _simulate(self, folder: Path, journal: Journal) -> dict[int, dict[str, Any]]:
        import torch

        from workbench.cluster.charges import Charges, costs_of
        from workbench.comm.virtual import VirtualWorld
        from workbench.job import Job
        from workbench.training.control import Inbox
        from workbench.training.rank import Place, run_rank

        job = Job.from_json(self.job)
        place = Place(torch.device("cpu"))
        split = place.load(job)
        costs = costs_of(job, self.job.get("modules", {}), split, self.device, self._known)
        _add_facts(folder, device={**costs.to_json(job.batch_size), "jitter": self.device.jitter})
        with self._lock:
            inbox = self._inbox = Inbox()
            for command in self._commands:
                inbox.put(*command)
            if self._aborted:
                inbox.put(0, "abort")

        def body(comm: Communicator) -> dict[str, Any]:
            self._comms[comm.rank] = comm
            place = Place(torch.device("cpu"), charge=Charges(comm, costs, self.device.jitter, job.seed), load=lambda job: split)
            try:
                return self._outcome(**run_rank(job, comm, journal, inbox, folder, place))
            except Aborted as error:
                return self._outcome(comm.rank, status="aborted", message=str(error))
            except PeerLost as error:
                return self._outcome(comm.rank, status="lost", message=str(error), peer=error.rank)
            except Exception as error:  # noqa: BLE001 (the world has ended for the other ranks; the outcome tells it)
                return self._failed(comm.rank, error)

        world = VirtualWorld(self.ranks, self.network, aborted=lambda: self._aborted, pace=self.pace)
        return dict(enumerate(world.run(body)))

    def _outcome(self, rank: int, **told: Any) -> dict[str, Any]:
        steps = int(self._steps[rank])
        return {"rank": rank, "host": socket.gethostname(), "device": "virtual", "steps": steps, **told, "ended": time.monotonic()}

    def _complete(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """An outcome once all is recorded: the steps of its rank, and at which one it failed."""
        rank = outcome["rank"]
        failed_at = [event["step"] for event in self.events if event["kind"] == "error" and event.get("rank") == rank]
        return {**outcome, "steps": int(self._steps[rank]), **({"step": failed_at[0]} if failed_at else {})}

    def _failed(self, rank: int, error: BaseException) -> dict[str, Any]:
        from workbench.training.failure import failure

        return self._outcome(rank, status="failed", **failure(error))

    def _push(self, table: str, first: int, rows: Rows) -> None:
        if table == "steps":
            np.maximum.at(self._steps, rows["rank"], rows["step"] + 1)
        elif table == "server":
            np.add.at(self._served, rows["rank"], 1)
        self._send("rows", run=self.run, table=table, first=first, rows=rows)

    def _push_event(self, event: dict[str, Any]) -> None:
        self.state = STATES.get(event["kind"], self.state)
        if 0 <= event.get("rank", -1) < self.ranks:
            self._steps[event["rank"]] = max(self._steps[event["rank"]], event.get("step", 0))
        self.events.append(event)
        self._send("event", run=self.run, event=event)


def _add_facts(folder: Path, **facts: Any) -> None:
    """Add what was measured to the run's cluster.json."""
    with contextlib.suppress(OSError):
        path = folder / "cluster.json"
        write_json(path, {**(read_json(path) if path.exists() else {}), **facts})
