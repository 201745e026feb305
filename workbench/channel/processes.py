"""The controller and the engines of one cluster as processes: started, found again, restarted, stopped.

Wraps ipyparallel's `Cluster`, whose coroutines run on one background loop of this process: in a notebook the kernel's
own loop is busy while a cell runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import logging
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, cast, final

from workbench.channel import reaper
from workbench.channel.launch import MpiProfile
from workbench.errors import ClusterNotStarted

# 500 ms make engines register soon; the number of misses keeps one alive that was stopped by a debugger for two minutes
_CONTROLLER = ["--HeartMonitor.period=500", "--HeartMonitor.max_heartmonitor_misses=240", "--IPController.broadcast_scheduler_depth=0"]
_left_running: list[Any] = []  # a Popen that is dropped while its process runs would warn


def profile_dir() -> Path:
    """The user's default IPython profile, where ipyparallel keeps its clusters; made if it is not there. ClusterNotStarted if it cannot be."""
    from IPython.core import profiledir
    from IPython.paths import get_ipython_dir

    base, directory = get_ipython_dir(), cast(Any, profiledir.ProfileDir)
    try:
        Path(base).mkdir(parents=True, exist_ok=True)
        try:
            found = directory.find_profile_dir_by_name(base, "default")
        except profiledir.ProfileDirError:
            found = directory.create_profile_dir_by_name(base, "default")
        (Path(found.location) / "security").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ClusterNotStarted(f"clusters are kept in {base}, which cannot be written ({error}); set IPYTHONDIR to a folder that can") from error
    return Path(found.location).resolve()


@final
class Processes:
    """The processes of cluster `name` of this user on this host."""

    def __init__(self, name: str) -> None:
        self.name, self.profile_dir = name, profile_dir()
        self._cluster: Any = None

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Keep others from starting or stopping a cluster of this name meanwhile. ClusterNotStarted after `timeout` seconds."""
        path = self.profile_dir / "security" / f"workbench-{self.name}.lock"
        deadline = time.monotonic() + timeout
        with path.open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ClusterNotStarted(f"another process is starting or stopping the cluster {self.name!r}, for {timeout:.0f} s") from None
                    time.sleep(0.05)
            yield

    def up(self) -> bool:
        """Whether the controller of this cluster lives."""
        try:
            told = json.loads((self.profile_dir / "security" / f"cluster-{self.name}.json").read_text())
            pid = told["controller"]["state"]["pid"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        # its children run the same command and outlive it when it is killed
        return any(process.pid == pid for process in reaper.processes(self.profile_dir, self.name))

    def ours(self) -> bool:
        """Whether the workbench has started the controller that is up, and not somebody with `ipcluster`."""
        return any(_CONTROLLER[1] in process.command for process in reaper.processes(self.profile_dir, self.name))

    def attach(self) -> bool:
        """Take over the running cluster of this name, if there is one."""
        if not self.up():
            return False
        import ipyparallel as ipp
        from traitlets.config import Config

        try:
            self._cluster = ipp.Cluster.from_file(
                cluster_id=self.name, profile_dir=str(self.profile_dir), config=Config(), load_profile=False, log=_log(), shutdown_atexit=False
            )
        except (FileNotFoundError, ValueError):
            return False
        return self._cluster.controller is not None

    def start_controller(self) -> None:
        """Start a controller. ClusterNotStarted with the tail of its log when it does not come up."""
        import ipyparallel as ipp
        from traitlets.config import Config

        self._cluster = ipp.Cluster(
            cluster_id=self.name,
            profile_dir=str(self.profile_dir),
            engines="mpi",
            delay=0,
            config=Config(),
            load_profile=False,
            log=_log(),
            shutdown_atexit=False,
        )
        self._cluster.controller_args = list(_CONTROLLER)
        try:
            # a random.py in the notebook's folder is not Python's
            _run(self._cluster.start_controller(environment={"PYTHONSAFEPATH": "1"}))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterNotStarted(f"the controller was not started: {error}\n{self.log_tail('controller')}") from error
        _left_running.append(self._cluster.controller._popen_process)

    @property
    def controller_pid(self) -> int:
        """Process id of the controller."""
        return int(self._cluster.controller.pid)

    def start_engines(self, ranks: int, mpi: MpiProfile, environment: dict[str, str]) -> None:
        """Start `ranks` engines under mpiexec; returns once mpiexec runs."""
        launcher = self._cluster.config.MPIEngineSetLauncher
        launcher.mpi_cmd = [mpi.mpiexec]
        launcher.mpi_args = mpi.arguments()
        launcher.engine_cmd = [sys.executable, "-m", "workbench.channel.engine"]
        launcher.environment = {**mpi.environment(ranks), **environment}
        # an attached cluster does not know its engine set as one of this kind
        self._cluster.engine_launcher_class = "mpi"
        self._cluster.n = ranks
        try:
            _run(self._cluster.start_engines(ranks))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterNotStarted(f"the engines were not started: {error}\n{self.log_tail('controller')}") from error
        _left_running.append(self._cluster.engine_set._popen_process)

    def engines_ended(self) -> bool:
        """Whether mpiexec has ended."""
        engines = self._cluster.engine_set
        return engines is None or engines.state == "after" or not engines.process.is_running() or engines.process.status() == "zombie"

    def log_tail(self, what: str = "engines", lines: int = 25) -> str:
        """The end of the log of the engines or the controller."""
        launcher = None
        if self._cluster is not None:
            launcher = self._cluster.engine_set if what == "engines" else self._cluster.controller
        if launcher is None:
            return ""
        # ipyparallel removes the file when the process ends, and keeps the text
        text = launcher._output if launcher._output is not None else launcher.get_output()
        if launcher.state != "after":
            launcher._output = None
        return "\n".join(line[:400] for line in str(text).splitlines()[-lines:])

    def connection(self) -> dict[str, Any]:
        """What a client needs to know to connect. ClusterNotStarted with the tail of the controller's log when it does not say so."""
        try:
            told: dict[str, Any] = _run(self._cluster.controller.get_connection_info(timeout=20))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterNotStarted(f"the controller did not come up: {error}\n{self.log_tail('controller')}") from error
        client: dict[str, Any] = told["client"]
        return client

    def stop_engines(self) -> None:
        """End the engines: SIGTERM to mpiexec, after 5 s SIGKILL."""
        if self._cluster is not None:
            with contextlib.suppress(OSError, TimeoutError):
                _run(self._cluster.stop_engines())

    def stop(self) -> None:
        """End everything and remove the files; also what a crashed controller left behind."""
        if self._cluster is not None:
            with contextlib.suppress(OSError, TimeoutError):
                _run(self._cluster.stop_cluster())
        self._cluster = None
        reaper.reap(self.profile_dir, self.name)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="workbench processes", daemon=True).start()
    return loop


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except KeyboardInterrupt:
        # it goes on over there: what it is about to start must be there to be ended
        with contextlib.suppress(Exception):
            future.result(10)
        raise


def _log() -> logging.Logger:
    """ipyparallel would print pages of the engines' logs into the notebook when they stop; what matters is in our errors."""
    log = logging.getLogger("workbench.ipyparallel")
    log.setLevel(logging.CRITICAL)
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    return log
