"""Ranks that go on without one that is killed, where the MPI library can."""

from __future__ import annotations

import pytest

from tests.mpi.test_laws import mpiexec
from workbench.channel.launch import find_mpi

pytestmark = [pytest.mark.mpi, pytest.mark.skipif("--with-ft" not in find_mpi().arguments(), reason="this MPI ends all ranks with one that dies")]


@pytest.mark.parametrize("over", ["mpi", "link"])
def test_those_that_live_go_on(over: str) -> None:
    done = mpiexec(5, "tests.mpi.outliving", over)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [f"rank {rank}: kept" for rank in (0, 1, 3)]
