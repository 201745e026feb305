"""The emulated link, under real MPI."""

from __future__ import annotations

import pytest

from tests.mpi.test_laws import mpiexec

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_emulated_link(ranks: int) -> None:
    done = mpiexec(ranks, "tests.mpi.link")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"laws kept on {ranks} ranks" in done.stdout
