"""Which clusters of this user are up on this host: `workbench list` and `workbench stop` read it, attaching compares with it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, final

import psutil

from workbench.channel import reaper
from workbench.channel.processes import Processes, profile_dir
from workbench.cluster.engines import Engines
from workbench.comm.network import Network
from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.store import read_json, write_json

STOP_SECONDS: Final = 3.0
"""So long `stop` waits for a run to stop by itself, and then again for it to end at once."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """`name` if it can be the name of a cluster, or a ValueError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r}: name must be letters, digits, dots, dashes and underscores, beginning with a letter or digit, got {name!r}")
    return name


@final
@dataclass(frozen=True)
class Record:
    """What a cluster was started with. `devices` is "auto", "cpu" or a list; `started` is in seconds since 1970;
    `network` is the emulated link of its runs where whoever attaches names no other.

    `state` is "starting" until all ranks have come, also in a restart, then "up". `starter` is the process that starts
    it: its number, and when it began in seconds since 1970.
    """

    name: str
    ranks: int
    launcher: str
    devices: str | list[Any]
    mpi: str = ""
    host: str = ""
    python: str = ""
    version: str = ""
    started: float = 0.0
    network: Network | None = None
    state: str = "up"
    starter: int = 0
    starter_began: float = 0.0

    def describe(self) -> str:
        """What tells it from another one, as it was written in `Cluster(...)`."""
        return f"ranks={self.ranks}, devices={self.devices!r}, launcher={self.launcher!r}"


@final
@dataclass(frozen=True)
class Listed:
    """A line of `workbench list`: `state` is "up", "starting", or "left over" for processes without a controller or of a start that was killed."""

    name: str
    state: str
    processes: int
    record: Record | None


def read(name: str, folder: Path | None = None) -> Record | None:
    """The record of a cluster, if there is a readable one."""
    try:
        told = read_json(_path(name, folder))
        known = {f.name for f in fields(Record)}
        record = Record(**{key: value for key, value in told.items() if key in known})
        return replace(record, network=Network.from_json(told["network"])) if record.network is not None else record
    except (OSError, RunFolderDamaged, TypeError, AttributeError, ValueError):
        return None


def write(record: Record) -> None:
    """Note that a cluster is up."""
    write_json(_path(record.name), asdict(record))


def forget(name: str) -> None:
    """Note that a cluster is down."""
    with contextlib.suppress(FileNotFoundError):
        _path(name).unlink()


def running() -> list[Listed]:
    """The clusters of this user on this host, and what is left of crashed ones."""
    counts: dict[str, int] = {}
    for process in reaper.processes(profile_dir()):
        counts[process.cluster] = counts.get(process.cluster, 0) + 1
    listed = []
    for name, count in sorted(counts.items()):
        record = read(name)
        listed.append(Listed(name, _state(Processes(name), record), count, record))
    return listed


def left_over(processes: Processes, record: Record | None) -> bool:
    """For whoever has the lock of this cluster: whether what is up was killed while it started, so that nobody knows its ranks."""
    # somebody else's cluster has no record, and is not ours to end
    return record.state == "starting" if record is not None else processes.ours()


def stop(name: str) -> int:
    """End every process of the cluster `name` and remove its files, whether it works or has crashed. How many processes there were.

    A run that is on is stopped first, so that it keeps its model and its end is written.
    """
    engines = Engines(check_name(name))
    processes = engines.processes
    with processes.lock(60):
        count = len(reaper.processes(processes.profile_dir, name))
        if processes.up() and not left_over(processes, read(name)):
            with contextlib.suppress(WorkbenchError, OSError, RuntimeError):  # it is ended all the same
                if engines.attach(greeting=2.0):
                    _end_run(engines)
        engines.stop()
        forget(name)
    return count


def _end_run(engines: Engines) -> None:
    from workbench.channel.client import EngineFeed

    assert engines.link is not None
    answers = engines.link.ask("state", timeout=2.0)
    lead = answers.get(min(answers, default=0))
    if lead is None or not lead.content.get("run") or lead.content.get("outcome") is not None:
        return
    feed = EngineFeed(engines.link, Path(lead.content["run"]), engines.hello, engines.processes.up)
    feed.follow()
    if None not in answers.values():
        with contextlib.suppress(WorkbenchError):
            feed.command("stop", {})
            feed.wait(STOP_SECONDS)
    feed.end(STOP_SECONDS)
    time.sleep(0.3)  # other notebooks follow it too, and hear of its end from the ranks


def _state(processes: Processes, record: Record | None) -> str:
    if record is not None and record.state == "starting":
        with contextlib.suppress(psutil.Error):
            if abs(psutil.Process(record.starter).create_time() - record.starter_began) < 2:
                return "starting"
        return "left over"
    return "up" if processes.up() and not left_over(processes, record) else "left over"


def _path(name: str, folder: Path | None = None) -> Path:
    return (folder or profile_dir()) / "security" / f"workbench-{name}.json"


@contextlib.contextmanager
def noted(record: Callable[[], Record]) -> Iterator[None]:
    """Note that a cluster is being started, so that others know should this process be killed meanwhile, and then that it is up."""
    me = psutil.Process()
    write(replace(record(), state="starting", starter=me.pid, starter_began=me.create_time()))
    try:
        yield
    except BaseException:
        forget(record().name)
        raise
    write(record())
