"""The process in which the ranks of a virtual cluster live:  python -m workbench.cluster.world

It answers on its standard input and output (see `frames.py`), trains on its main thread, ignores Ctrl-C, which belongs
to the notebook, and ends when the notebook's end of the pipes closes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from typing import Any, Final, final

from workbench.channel.usercode import UserCode
from workbench.cluster.frames import Frames
from workbench.cluster.simulation import Simulation

LAST_WORDS_SECONDS: Final = 10.0
"""So long a run may take to write its records down once the notebook is gone."""


@final
class World:
    """What the process answers, and the run that is on."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._code = UserCode()
        self._known: dict[str, Any] = {}
        self._simulation: Simulation | None = None
        self._runs: queue.SimpleQueue[Simulation | None] = queue.SimpleQueue()

    def live(self) -> None:
        """Train what is asked for, until the notebook is gone. For the main thread."""
        self._frames.send({"push": "hello", **self.hello()})
        threading.Thread(target=self._listen, name="notebook", daemon=True).start()
        import torch

        torch.set_num_threads(1)  # one rank computes at a time, and each thread would have a pool of its own
        while (simulation := self._runs.get()) is not None:
            simulation.perform(self._code)

    def hello(self) -> dict[str, Any]:
        """Who this is."""
        return {"pid": os.getpid(), "host": socket.gethostname(), "python": sys.version.split()[0]}

    def begin(self, **run: Any) -> dict[str, Any]:
        """Begin a run; its name if another one is on."""
        before = self._simulation
        if before is not None and before.ended is None:
            return {"busy": before.run}
        self._simulation = Simulation(known=self._known, send=self._push, **run)
        self._runs.put(self._simulation)
        return {"busy": None}

    def state(self) -> dict[str, Any]:
        """How far the run is; "run" is None before the first."""
        return self._simulation.report() if self._simulation is not None else {"run": None, "state": "idle"}

    def beacons(self, run: str) -> dict[str, Any]:
        """What each rank is doing."""
        return {"beacons": self._of(run).beacons()}

    def order(self, run: str, verb: str, options: dict[str, Any]) -> dict[str, Any]:
        """Take a command; its number."""
        return {"number": self._of(run).order(verb, options)}

    def abort(self, run: str) -> dict[str, Any]:
        """End a run at once."""
        self._of(run).abort()
        return {}

    def pull(self, run: str, table: str, since: int) -> dict[str, Any]:
        """Rows of a table from number `since` on; not always all of them."""
        first, rows = self._of(run).pull(table, since)
        return {"first": first, "rows": rows}

    def events(self, run: str, since: int) -> dict[str, Any]:
        """What has happened, from number `since` on."""
        return {"events": self._of(run).events[since:]}

    def _of(self, run: str) -> Simulation:
        if self._simulation is None or self._simulation.run != run:
            raise ValueError(f"{run} is not the run that is on")
        return self._simulation

    def _listen(self) -> None:
        while (question := self._frames.receive()) is not None:
            self._answer(question)
        if self._simulation is not None:
            self._simulation.abort()
        self._runs.put(None)
        # a rank that computes without end cannot be told to stop; without a notebook nobody wants to know how it ends
        timer = threading.Timer(LAST_WORDS_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def _answer(self, question: dict[str, Any]) -> None:
        try:
            answer = getattr(self, question["ask"])(**question["with"])
        except Exception as error:  # noqa: BLE001 (the notebook gets it)
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        self._tell({"answer": question["number"], **answer})

    def _push(self, kind: str, **content: Any) -> None:
        self._tell({"push": kind, **content})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the notebook is gone; `_listen` notices too
            self._frames.send(message)


def main() -> None:
    """Live on the standard pipes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # whatever prints, C libraries included, must not land between the frames
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    World(Frames(incoming, outgoing)).live()


if __name__ == "__main__":
    main()
