"""Ends a cluster whose owner has ended without doing so: `workbench train` after a kill -9 leaves nothing behind.

A process of its own, since the owner cannot clean up after itself then, started before the cluster: `python -m workbench.channel.guardian OWNER
PROFILE NAME`. It sleeps until the owner is gone. Where the cluster is still there, it ends the controller; the engines
notice, stop their run, keep its model and leave (see `runtime`); whatever remains after that is ended for certain.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, final

import psutil

from workbench.channel.processes import Processes
from workbench.channel.reaper import processes, reap
from workbench.errors import ClusterNotStarted

LEAVING_SECONDS: Final = 30.0
LOCK_SECONDS: Final = 20.0


@final
class Guardian:
    """Has the cluster `name` ended should this process end without stopping it."""

    def __init__(self, profile_dir: Path, name: str) -> None:
        self._profile_dir, self._name = profile_dir, name
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self) -> None:
        """Begin, if it has not begun."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(psutil.Process().pid), str(self._profile_dir), self._name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def dismiss(self) -> None:
        """The cluster is stopped: no more need."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def main() -> None:
    """Wait for the owner's end, then see to the cluster."""
    owner, profile_dir, name = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(owner).wait()
    ended = time.time()
    # somebody else who starts or stops a cluster of this name clears away what is left first
    with contextlib.suppress(ClusterNotStarted), Processes(name).lock(LOCK_SECONDS):
        # a process of a cluster that was started meanwhile is younger
        if any(process.started <= ended for process in processes(profile_dir, name)):
            end(profile_dir, name)


def end(profile_dir: Path, name: str) -> None:
    """End the cluster, its engines by their own will if they do so within LEAVING_SECONDS."""
    for process in processes(profile_dir, name):
        if "ipyparallel.controller" in process.command:  # of this very cluster: its environment has said so
            with contextlib.suppress(psutil.Error):
                psutil.Process(process.pid).kill()
    deadline = time.monotonic() + LEAVING_SECONDS
    while any("workbench.channel.engine" in process.command for process in processes(profile_dir, name)) and time.monotonic() < deadline:
        time.sleep(0.2)
    reap(profile_dir, name)


if __name__ == "__main__":
    main()
