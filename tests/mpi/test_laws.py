"""The same laws under real MPI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.channel.launch import find_mpi

pytestmark = pytest.mark.mpi


def mpiexec(ranks: int, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests on so many real ranks."""
    mpi = find_mpi()
    command = [mpi.mpiexec, "-n", str(ranks), *mpi.arguments(), sys.executable, "-m", module, *arguments]
    # ranks are started with a path that leaves the working directory out
    environment = os.environ | mpi.environment(ranks) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_laws_of_collectives_and_communicator(ranks: int) -> None:
    done = mpiexec(ranks, "tests.mpi.ranks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"laws kept on {ranks} ranks" in done.stdout
