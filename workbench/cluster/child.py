"""The process of a virtual world as the notebook holds it: started, asked, listened to, ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

from workbench.cluster.frames import Frames
from workbench.errors import ClusterGone, ClusterNotStarted

TAIL_LINES: Final = 20
SINGLE_THREADED: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Of many ranks in one process one computes at a time; pools of threads would only wait for each other."""

OnPush = Callable[[dict[str, Any]], None]


@final
class Child:
    """One process. It ends when this one does, because its input then closes."""

    def __init__(self, on_push: OnPush, on_end: Callable[[str], None], timeout: float = 60.0) -> None:
        """Start it. ClusterNotStarted if it has not said hello within `timeout` seconds.

        `on_push(message)` and, once, `on_end(why)` are called on a thread of its own.
        """
        self._on_push, self._on_end = on_push, on_end
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._gone = ""
        self._wanted = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workbench.cluster.world"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **SINGLE_THREADED, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C in a terminal goes to all of a session
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._frames = Frames(self._process.stdout, self._process.stdin)
        self.hello: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._listen, name="virtual world", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: bool(self.hello or self._gone), timeout)
        if not self.hello:
            why = self._gone or f"it did not answer within {timeout:.0f} s"
            self.stop(0.0)
            raise ClusterNotStarted(f"the process of the virtual world did not start: {why}")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is there."""
        return not self._gone

    def ask(self, what: str, timeout: float = 10.0, **content: Any) -> dict[str, Any] | None:
        """What it answers; None after `timeout` seconds. ClusterGone when it is not there, ValueError for what it refuses."""
        number = self.tell(what, **content)
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self._gone, timeout)
            answer = self._answers.pop(number, None)
        if answer is None and self._gone:
            raise ClusterGone(self._gone)
        if answer is not None and "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def tell(self, what: str, **content: Any) -> int:
        """Ask without waiting for the answer. ClusterGone when it is not there."""
        number = next(self._numbers)
        try:
            if not self._gone:
                self._frames.send({"number": number, "ask": what, "with": content})
        except (OSError, ValueError) as error:
            raise ClusterGone(self._gone or "the process of the virtual world is gone") from error
        return number

    def kill(self) -> None:
        """End it at once; `on_end` is told."""
        self._process.kill()

    def stop(self, timeout: float = 15.0) -> None:
        """End it: it aborts its run and writes the records down. Killed if it takes longer than `timeout` seconds."""
        self._wanted = True
        self._frames.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _listen(self) -> None:
        while (message := self._next()) is not None:
            if "answer" in message:
                with self._changed:
                    self._answers[message["answer"]] = message
                    self._changed.notify_all()
            elif message["push"] == "hello":
                with self._changed:
                    self.hello = message
                    self._changed.notify_all()
            else:
                self._on_push(message)
        why = self._last_words()
        with self._changed:
            self._gone = why
            self._changed.notify_all()
        if self.hello:
            self._on_end(why)

    def _next(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            return self._frames.receive()
        return None

    def _last_words(self) -> str:
        if self._wanted:
            return "the virtual cluster was stopped"
        deadline = time.monotonic() + 2
        while (code := self._process.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        how = "it closed its output" if code is None else f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").rstrip().splitlines()[-TAIL_LINES:]
        said = "; the last it said:\n" + "\n".join(f"    {line}" for line in lines) if lines else ""
        return f"the process of the virtual world is gone ({how}){said}"
