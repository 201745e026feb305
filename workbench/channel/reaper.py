"""Finds and ends what is left of a cluster, by the environment that ipyparallel gives to every process it starts.

Never by name: a process belongs to a cluster if its environment says so, and to nobody else's cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import psutil

CLUSTER_ID: Final = "IPP_CLUSTER_ID"
PROFILE_DIR: Final = "IPP_PROFILE_DIR"


@final
@dataclass(frozen=True)
class Found:
    """A process of a cluster on this host."""

    pid: int
    cluster: str
    command: str
    started: float


def processes(profile_dir: Path, name: str | None = None) -> list[Found]:
    """The processes on this host that belong to cluster `name` (or to any cluster) of this profile, oldest first.

    This process and those that it descends from are never among them.
    """
    me = psutil.Process()
    own = {me.pid, *(parent.pid for parent in me.parents())}
    wanted = os.path.abspath(profile_dir)
    found = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        try:
            environ = process.environ()
            cluster = environ.get(CLUSTER_ID)
            if cluster is None or name not in (None, cluster) or os.path.abspath(environ.get(PROFILE_DIR, "/")) != wanted:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(Found(process.pid, cluster, " ".join(process.cmdline()), process.create_time()))
        except (psutil.Error, OSError):  # it ended meanwhile, or it is another user's
            continue
    return sorted(found, key=lambda process: (process.started, process.pid))


def reap(profile_dir: Path, name: str, patience: float = 3.0) -> int:
    """End every process of cluster `name`, first politely, after `patience` seconds for certain, and remove its files. How many there were."""
    seen: set[int] = set()
    shared: set[str] = set()
    deadline = time.monotonic() + patience
    asked: set[int] = set()
    while left := processes(profile_dir, name):
        seen |= {process.pid for process in left}
        shared.update(*(shared_memory(process.pid) for process in left))
        hurry = time.monotonic() > deadline
        for process in left:
            if hurry or process.pid not in asked:
                with contextlib.suppress(psutil.Error):
                    victim = psutil.Process(process.pid)
                    if victim.create_time() == process.started:  # the number may belong to another one by now
                        victim.kill() if hurry else victim.terminate()
                asked.add(process.pid)
        if time.monotonic() > deadline + 10:
            break  # a process in the kernel's hands; `doctor` will show it
        time.sleep(0.05)
    remove_files(profile_dir, name)
    unlink(shared)
    return len(seen)


def unlink(files: Iterable[str]) -> None:
    """Remove files, as far as they are there."""
    for file in files:
        with contextlib.suppress(OSError):
            os.unlink(file)


def shared_memory(pid: int) -> list[str]:
    """The files through which MPI shares memory that a process has open; they stay behind when all its ranks are killed."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return []
    return sorted(set(re.findall(r"/dev/shm/(?:sm_segment|vader_segment|mpich_shm)[^\s/]*", maps)))


def remove_files(profile_dir: Path, name: str) -> None:
    """Remove the connection and pid files of a cluster that is down; with them, a client would wait for an answer in vain."""
    for file in (
        profile_dir / "security" / f"cluster-{name}.json",
        profile_dir / "security" / f"ipcontroller-{name}-client.json",
        profile_dir / "security" / f"ipcontroller-{name}-engine.json",
        profile_dir / "pid" / f"ipcontroller-{name}.pid",
    ):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
