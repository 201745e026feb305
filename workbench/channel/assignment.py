"""One run on one engine: from the order to begin until the outcome can be asked for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from mpi4py import MPI

from workbench.channel.messages import LIMIT, Rows
from workbench.channel.outbox import Outbox, Send
from workbench.channel.output import output_to
from workbench.channel.usercode import UserCode
from workbench.errors import Aborted, PeerLost, WorkbenchError
from workbench.store import next_source
from workbench.training import devices

if TYPE_CHECKING:
    from workbench.training.control import Inbox
    from workbench.training.journal import Journal

MEETING_SECONDS: Final = 10.0
"""So long a rank that was told to end waits for the others to come to the start of the run: all have the order, and come."""
LAST: Final = 2**40
"""The number of the command by which a rank stops itself when its controller is gone: the same on all ranks, above all others."""


@final
class Assignment:
    """A run, as this rank has it. Made on the control thread; `perform` is called on the main thread."""

    def __init__(self, run: str, job: dict[str, Any], directory: str, send: Send, network: dict[str, Any] | None = None) -> None:
        self.run, self.job, self.directory, self.network = run, job, directory, network
        self.out = Outbox(run, send)
        self.state = "starting"
        self.outcome: dict[str, Any] | None = None
        self.inbox: Inbox | None = None
        self.journal: Journal | None = None
        self.events: list[dict[str, Any]] = []
        self.comm: Any = None
        self.commands: dict[int, tuple[str, dict[str, Any]]] = {}
        self.newest = 0
        self._aborted = self._training = self._interrupted = False
        self._lock = threading.Lock()

    def order(self, verb: str, options: dict[str, Any]) -> int:
        """On the lowest rank only: give a command its number. Numbers follow each other without a gap."""
        with self._lock:
            number = max(self.commands, default=0) + 1
            self.commands[number] = (verb, options)
        self._deliver()
        return number

    def take(self, number: int, verb: str, options: dict[str, Any]) -> None:
        """Take in a numbered command; it takes effect once all before it are there. Twice is nothing."""
        with self._lock:
            self.commands.setdefault(number, (verb, options))
        self._deliver()

    def abort(self) -> None:
        """End at once."""
        self._aborted = True
        if self.inbox is not None:
            self.inbox.put(0, "abort")

    def interrupt(self) -> None:
        """On the main thread, by a signal: leave the user's code wherever it is. Only while it runs: the outcome must be told in any case."""
        if self._training:
            self._training, self._interrupted = False, True
            raise KeyboardInterrupt("interrupted")

    def give_up(self) -> None:
        """The controller is gone: stop at the next step at which the ranks agree, as if told to."""
        if self.inbox is not None:
            self.inbox.put(LAST, "stop")

    def beacon(self) -> dict[str, Any]:
        """What this rank is doing: "state", "operation" it waits for (None: it computes), "since_seconds", "step" (of a server: its updates)."""
        operation, since = None, 0.0
        if self.comm is not None:
            operation, since = self.comm.beacon.operation, self.comm.beacon.since
        waiting = max(0.0, time.perf_counter() - since) if operation is not None else 0.0
        counts = self.journal.counts() if self.journal is not None else {}
        step = counts.get("steps") or counts.get("server") or 0
        return {"state": self.state, "operation": operation, "since_seconds": waiting, "step": step}

    def report(self) -> dict[str, Any]:
        """What can be asked at any time: the beacon, what has been recorded and the outcome."""
        counts = {self.journal.source: self.journal.counts()} if self.journal is not None else {}
        return {
            "run": self.run,
            **self.beacon(),
            "counts": counts,
            "events": len(self.events),
            "newest": self.newest,
            "outlives": self.comm is not None and self.comm.outlives,
            "outcome": self.outcome,
        }

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(first, rows) of what this rank has recorded from `since` on: at most LIMIT rows."""
        if self.journal is None or source != self.journal.source:
            raise WorkbenchError(f"rank {MPI.COMM_WORLD.rank} does not write {source}")
        first, rows = self.journal.pull(table, since)
        return first, rows[:LIMIT]

    def perform(self, world: World, code: UserCode, loaded: Callable[[], None]) -> None:
        """Collective, on the main thread. Train; never raises: the outcome says how it ended. `loaded` returns once torch is there."""
        began, folder, rank = time.time(), Path(self.run), MPI.COMM_WORLD.rank
        told: dict[str, Any] = {"rank": rank, "host": socket.gethostname(), "device": devices.bound().label}
        flusher = None
        try:
            # first of all, so that a rank that fails below can say so to the others
            self.comm = world.fresh(lambda: self._aborted, self.network, self._warn)
            loaded()
            from workbench.training import surroundings
            from workbench.training.journal import Flusher, Journal

            surroundings.reset()
            self.journal = Journal(next_source(folder, rank), folder)
            flusher = Flusher(self.journal, self._push, self._push_event)
            if self.network is not None and (words := self.comm.rehearse()) and rank == 0:
                self._warn(words)
            with output_to(folder, rank):
                told |= self._train(folder, code)
        except Aborted as error:
            told |= {"status": "aborted", "message": str(error)}
        except PeerLost as error:
            told |= {"status": "lost", "peer": error.rank, "message": str(error), "traceback": traceback.format_exc()}
        except BaseException as error:  # noqa: BLE001 (whatever a user's model raises: the outcome tells it)
            self._training = False
            if self._interrupted and self._aborted:
                told |= {"status": "aborted", "message": "interrupted, because it did not heed the abort"}
                if self.journal is not None:
                    self.journal.event("abort", rank=rank, step=self.journal.counts()["steps"], seconds=0.0, message=told["message"])
            else:
                told |= {"status": "failed", **_particulars(error)}
            if self.comm is not None:
                with contextlib.suppress(MPI.Exception):
                    self.comm.farewell(f"{type(error).__name__}: {error}")
        if flusher is not None:
            flusher.close()
        if self.journal is not None:
            told["steps"] = self.journal.counts()["steps"]
        failed_at = next((event["step"] for event in self.events if event["kind"] == "error"), None)
        if failed_at is not None:
            told["step"] = failed_at
        self.outcome = {"steps": 0, **told, "began": began, "ended": time.time()}
        self.state = {"done": "done", "stopped": "stopped", "aborted": "stopped"}.get(told["status"], "failed")
        self.out.say("outcome", outcome=self.outcome)

    def _train(self, folder: Path, code: UserCode) -> dict[str, Any]:
        assert self.journal is not None
        code.enter(self.directory)
        try:
            from workbench.job import Job
            from workbench.training.control import Inbox
            from workbench.training.rank import Place, run_rank

            job = Job.from_json(self.job)
            self.inbox = Inbox()
            if self._aborted:
                self.inbox.put(0, "abort")
            self._deliver()
            place = Place(devices.torch_device(devices.bound()))
            self._training = True
            return run_rank(job, self.comm, self.journal, self.inbox, folder, place)
        finally:
            self._training = False
            code.remember()

    def _deliver(self) -> None:
        """Hand on what is there without a gap: the ranks agree on the newest number that all have seen."""
        with self._lock:
            if self.inbox is None:
                return
            while self.newest + 1 in self.commands:
                self.newest += 1
                self.inbox.put(self.newest, *self.commands[self.newest])

    def _warn(self, message: str) -> None:
        if self.journal is not None:
            self.journal.event("warning", rank=MPI.COMM_WORLD.rank, step=self.journal.counts()["steps"], seconds=0.0, message=message)

    def _push(self, table: str, first: int, rows: Rows) -> None:
        assert self.journal is not None
        self.out.rows(self.journal.source, table, first, rows)

    def _push_event(self, event: dict[str, Any]) -> None:
        self.state = {"start": "running", "resume": "running", "pause": "paused", "stop": "stopping"}.get(event["kind"], self.state)
        self.events.append(event)
        self.out.say("event", event=event)


@final
class World:
    """All ranks, and the communicators that runs were given of them."""

    def __init__(self) -> None:
        self.spoiled = ""
        """Why no run can begin any more; empty while one can."""
        MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)

    def fresh(
        self, aborted: Callable[[], bool], network: dict[str, Any] | None = None, warn: Callable[[str], None] = print, patience: float = 60.0
    ) -> Any:
        """Collective. A communicator of its own for a run, on an emulated `network` if one is given, made without blocking.

        WorkbenchError when that fails: only a restart helps.

        Ranks that are told to end meet nevertheless, and raise `Aborted` then: whoever goes away alone meets nobody later.
        """
        if self.spoiled:
            raise WorkbenchError(f"{self.spoiled}; restart the cluster: cluster.restart()")
        from workbench.comm.link import LinkedCommunicator
        from workbench.comm.mpi import MpiCommunicator
        from workbench.comm.network import Network

        deadline, told_to_end = time.monotonic() + patience, False
        try:
            comm, request = MPI.COMM_WORLD.Idup()
            while not request.Test():
                if not told_to_end and aborted():
                    deadline, told_to_end = min(deadline, time.monotonic() + MEETING_SECONDS), True
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.001)
        except TimeoutError:
            self.spoiled = f"not all ranks came to the start of a run {'that was aborted' if told_to_end else f'within {patience:.0f} s'}"
            if told_to_end:
                raise Aborted(self.spoiled) from None
            raise WorkbenchError(f"{self.spoiled}; is one of them running a cell of yours?") from None
        except MPI.Exception as error:
            self.spoiled = f"the ranks cannot meet ({error.Get_error_string()})"
            raise WorkbenchError(f"{self.spoiled}; restart the cluster: cluster.restart()") from error
        if aborted():
            raise Aborted("told to end while the ranks were meeting")
        return MpiCommunicator(comm, aborted) if network is None else LinkedCommunicator(comm, Network.from_json(network), aborted, warn)


def _particulars(error: BaseException) -> dict[str, Any]:
    try:
        from workbench.training.failure import failure
    except Exception:  # noqa: BLE001 (torch does not load: that is the error)
        told = "".join(traceback.format_exception(error))
        return {"error": type(error).__name__, "message": str(error), "where": "", "traceback": told}
    return failure(error)
