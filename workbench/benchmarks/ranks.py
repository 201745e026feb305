"""Ranks that measure something: started for it alone, they tell what they find in lines of JSON, which are read as they come."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from workbench.channel.launch import find_mpi
from workbench.errors import WorkbenchError

SILENCE_SECONDS: Final = 90.0
"""Ranks that tell all the time hang where they say nothing for so long."""

LEAVE_SECONDS: Final = 10.0
"""What `mpiexec` gets to end its ranks before it is ended itself."""


def told(ranks: int, module: str, *arguments: str, silence: float = SILENCE_SECONDS) -> Iterator[dict[str, Any]]:
    """Run `python -m module` on so many real ranks, in the environment that engines get; every line of JSON that rank 0 prints, at once.

    Closing the iterator (or a Ctrl-C while it waits) ends the ranks. WorkbenchError where they fail, or are silent for `silence` seconds.
    """
    mpi = find_mpi()
    command = [mpi.mpiexec, "-n", str(ranks), *mpi.arguments(), sys.executable, "-m", module, *arguments]
    environment = os.environ | mpi.environment(ranks) | meeting_place()
    # a session of its own: a Ctrl-C is for this process, which then ends the ranks in an orderly way
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), name="ranks", daemon=True)
    reader.start()
    other: list[str] = []
    try:
        while (line := _next(lines, silence, f"{module} on {ranks} ranks")) is not None:
            if line.startswith("{"):
                yield json.loads(line)
            else:
                other = [*other[-20:], line]
        if process.wait():
            raise WorkbenchError(f"{module} on {ranks} ranks ended with exit code {process.returncode}: {''.join(other)}")
    finally:
        _end(process)
        reader.join(LEAVE_SECONDS)


def tell(**what: Any) -> None:
    """Print one line of what `told` reads."""
    print(json.dumps(what), flush=True)


def meeting_place() -> dict[str, str]:
    """Where gloo's ranks find each other: a free port of this host, on loopback alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as printed:
        for line in printed:
            lines.put(line)
    lines.put(None)


def _next(lines: queue.SimpleQueue[str | None], silence: float, who: str) -> str | None:
    try:
        return lines.get(timeout=silence)
    except queue.Empty:
        raise WorkbenchError(f"{who} has said nothing for {silence:g} s; it was ended") from None


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()  # mpiexec takes its ranks with it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LEAVE_SECONDS)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
