"""The workbench inside an engine: answers on the control thread, pushes records, trains on the main thread, and
notices when its controller is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, cast, final

import psutil
from jupyter_client.session import Session
from mpi4py import MPI

from workbench.channel.assignment import Assignment, World
from workbench.channel.messages import CONTROLLER, PUSH, REPLY, REQUEST, TOPIC, pack
from workbench.channel.reaper import shared_memory
from workbench.channel.usercode import UserCode
from workbench.training import devices

BEACON_SECONDS: Final = 0.25
LOOK_SECONDS: Final = 1.0  # between two looks for the controller
ABORT_SECONDS: Final = 12.0  # after the controller is gone, a run has so long to stop
EXIT_SECONDS: Final = 18.0  # and then so long to end, whatever it does


@final
class Runtime:
    """One per engine, made and installed on the main thread before the hub knows of the engine."""

    def __init__(self, kernel: Any, loop: Any, binding: devices.Binding) -> None:
        self._kernel, self._loop, self._binding = kernel, loop, binding
        session = kernel.session
        self._session = Session(key=session.key, signature_scheme=session.signature_scheme)
        self._sending = threading.Lock()
        self._beginning = threading.Lock()
        self._world, self._code = World(), UserCode()
        self._assignment: Assignment | None = None
        self._loaded = ""
        self._loader = threading.Thread(target=self._load, name="workbench loading", daemon=True)
        self._transport = ""
        self._orphaned = 0.0

    def install(self) -> None:
        """Take requests from now on; load torch in the background."""
        self._kernel.control_handlers[REQUEST] = self._handle
        self._loader.start()
        threading.Thread(target=self._pulse, name="workbench pulse", daemon=True).start()

    # what can be asked; each returns the content of the answer, or (content, buffers)

    def hello(self) -> dict[str, Any]:
        """Who this rank is and what it runs on."""
        world, vendor = MPI.COMM_WORLD, MPI.get_vendor()
        return {
            "rank": world.rank,
            "size": world.size,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": self._binding.label,
            "gpu": self._binding.gpu is not None,
            "shared": self._binding.shared,
            "transport": self._transport,
            "mpi": f"{vendor[0]} {'.'.join(map(str, vendor[1]))}",
            "threads": MPI.Query_thread() == MPI.THREAD_MULTIPLE,
            "python": sys.version.split()[0],
            "loaded": self._loaded,
            "memory": shared_memory(os.getpid()),
        }

    def state(self) -> dict[str, Any]:
        """What this rank is doing; `run` is None before its first run. `spoiled` says why no further run can begin, if none can."""
        told = self._assignment.report() if self._assignment is not None else {"run": None, "state": "idle"}
        return {**told, "spoiled": self._world.spoiled}

    def begin(self, run: str, job: dict[str, Any], directory: str, network: dict[str, Any] | None = None) -> dict[str, Any]:
        """Train in the folder `run`, on an emulated `network` if one is given, or say which run is on."""
        with self._beginning:
            before = self._assignment
            if before is not None and before.outcome is None:
                return {"accepted": False, "run": before.run}
            self._assignment = Assignment(run, job, directory, self._push, network)
        self._loop.add_callback(self._perform)
        return {"accepted": True, "run": run}

    def order(self, run: str, verb: str, options: dict[str, Any]) -> dict[str, Any]:
        """Number a command; asked of the lowest rank only."""
        return {"number": self._of(run).order(verb, options)}

    def take(self, run: str, number: int, verb: str, options: dict[str, Any]) -> dict[str, Any]:
        """Take in a numbered command."""
        self._of(run).take(number, verb, options)
        return {}

    def abort(self, run: str) -> dict[str, Any]:
        """End the run at once."""
        self._of(run).abort()
        return {}

    def commands(self, run: str, after: int) -> dict[str, Any]:
        """The commands behind number `after`, for ranks that missed them."""
        known = self._of(run).commands
        return {"commands": [[number, *known[number]] for number in sorted(known) if number > after]}

    def pull(self, run: str, source: str, table: str, since: int) -> tuple[dict[str, Any], list[bytes]]:
        """Rows of a table from number `since` on; not always all of them."""
        first, rows = self._of(run).pull(source, table, since)
        return {"first": first, "count": len(rows)}, [pack(rows)]

    def events(self, run: str, since: int) -> dict[str, Any]:
        """What has happened, from number `since` on."""
        return {"events": self._of(run).events[since : since + 1000]}

    def stack(self) -> dict[str, Any]:
        """Where the main thread is."""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        return {"stack": "".join(traceback.format_stack(frame)) if frame is not None else ""}

    _questions: Final = ("hello", "state", "begin", "order", "take", "abort", "commands", "pull", "events", "stack")

    async def _handle(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """On the control thread: alive while the main thread computes or waits."""
        content = dict(parent["content"])
        what = content.pop("what", "")
        buffers: list[bytes] = []
        try:
            if what not in self._questions:
                raise ValueError(f"unknown question {what!r}")
            answer = getattr(self, what)(**content)
            if isinstance(answer, tuple):
                answer, buffers = answer
            answer = {"status": "ok", **answer}
        except Exception as error:  # noqa: BLE001 (the asker is told)
            answer = {"status": "error", "ename": type(error).__name__, "evalue": str(error), "traceback": []}
        self._kernel.session.send(stream, REPLY, answer, parent=parent, ident=ident, buffers=buffers)

    def _of(self, run: str) -> Assignment:
        if self._assignment is None or self._assignment.run != run:
            raise LookupError(f"this rank is not in the run {run}")
        return self._assignment

    def _perform(self) -> None:
        """On the main thread, as a callback of its loop."""
        assignment = self._assignment
        assert assignment is not None
        before = signal.signal(signal.SIGINT, lambda *_: assignment.interrupt())  # ends a model that never comes to a step's end
        try:
            assignment.perform(self._world, self._code, self._loader.join)
        finally:
            signal.signal(signal.SIGINT, before)

    def _push(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        """Send to all clients, asked or not. From any thread."""
        rank, parts = MPI.COMM_WORLD.rank, cast(list[Any], buffers)
        with self._sending:
            # an empty parent: the hub does not look into it, other clients pass it over
            self._session.send(
                self._kernel.iopub_socket, PUSH, content={"rank": rank, **content}, parent={}, ident=TOPIC + b".%d" % rank, buffers=parts
            )

    def _load(self) -> None:
        """Load torch, so that `train` finds it there."""
        with contextlib.suppress(Exception):  # whatever is wrong with it, the run's own import will say
            self._transport = devices.transport(self._binding)
            began = time.monotonic()
            import workbench.training.rank  # noqa: F401

            self._loaded = f"{time.monotonic() - began:.2f}"

    def _pulse(self) -> None:
        """Twice a second and more: the beacon while a run is on, and a look whether the controller lives."""
        lives = _controller_lives()
        looked = time.monotonic()
        while True:
            time.sleep(BEACON_SECONDS)
            assignment = self._assignment
            if assignment is not None and assignment.outcome is None:
                with contextlib.suppress(Exception):  # the sockets close while the engine ends
                    assignment.out.say("beacon", beacon=assignment.beacon())
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                if not self._orphaned and not lives():
                    self._orphaned = looked
                    threading.Thread(target=self._leave, name="workbench leaving", daemon=True).start()

    def _leave(self) -> None:
        """The controller is gone: let the run stop and keep its model, then end this process within 30 s."""
        abort_at, exit_at = self._orphaned + ABORT_SECONDS, self._orphaned + EXIT_SECONDS
        assignment = self._assignment
        if assignment is not None and assignment.outcome is None:
            while assignment.outcome is None and time.monotonic() < abort_at:
                assignment.give_up()  # again and again: it may not take commands yet
                time.sleep(0.05)
            if assignment.outcome is None:
                assignment.abort()
            while assignment.outcome is None and time.monotonic() < exit_at:
                time.sleep(0.05)
        time.sleep(0.5)  # for what is still on its way to a notebook: the relays may have survived
        # not by way of the loop: MPI's own end waits for ranks that may hang
        os._exit(0 if time.monotonic() < exit_at else 1)


def _controller_lives() -> Callable[[], bool]:
    """A function that says whether the controller of this cluster, on this host, still lives."""
    told = json.loads(os.environ.get(CONTROLLER, "null"))
    if told is None:
        return lambda: True
    pid, started = told

    def lives() -> bool:
        try:
            process = psutil.Process(pid)
            return abs(process.create_time() - started) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True

    return lives
