"""Which clusters of this user are up on this host: `workbench list` and `workbench stop` read it, attaching compares with it."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

from workbench.channel import reaper
from workbench.channel.processes import Processes, profile_dir
from workbench.errors import RunFolderDamaged
from workbench.store import read_json, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """`name` if it can be the name of a cluster, or a ValueError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r}: name must be letters, digits, dots, dashes and underscores, beginning with a letter or digit, got {name!r}")
    return name


@final
@dataclass(frozen=True)
class Record:
    """What a cluster was started with. `devices` is "auto", "cpu" or a list; `started` is in seconds since 1970."""

    name: str
    ranks: int
    launcher: str
    devices: str | list[Any]
    mpi: str = ""
    host: str = ""
    python: str = ""
    version: str = ""
    started: float = 0.0

    def describe(self) -> str:
        """What tells it from another one, as it was written in `Cluster(...)`."""
        return f"ranks={self.ranks}, devices={self.devices!r}, launcher={self.launcher!r}"


@final
@dataclass(frozen=True)
class Listed:
    """A line of `workbench list`: `state` is "up", or "left over" for processes without a controller."""

    name: str
    state: str
    processes: int
    record: Record | None


def read(name: str, folder: Path | None = None) -> Record | None:
    """The record of a cluster, if there is a readable one."""
    try:
        told = read_json(_path(name, folder))
        known = {f.name for f in fields(Record)}
        return Record(**{key: value for key, value in told.items() if key in known})
    except (OSError, RunFolderDamaged, TypeError, AttributeError):
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
    return [Listed(name, "up" if Processes(name).up() else "left over", count, read(name)) for name, count in sorted(counts.items())]


def stop(name: str) -> int:
    """End every process of the cluster `name` and remove its files, whether it works or has crashed. How many processes there were."""
    processes = Processes(check_name(name))
    with processes.lock(60):
        count = len(reaper.processes(processes.profile_dir, name))
        processes.attach()
        processes.stop()
        forget(name)
    return count


def _path(name: str, folder: Path | None = None) -> Path:
    return (folder or profile_dir()) / "security" / f"workbench-{name}.json"
