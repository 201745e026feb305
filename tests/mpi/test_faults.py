"""What goes wrong in an exchange of real ranks, with every collective."""

from __future__ import annotations

import pytest

from tests.laws import on_real_ranks
from tests.mpi.test_laws import mpiexec
from workbench.channel.launch import find_mpi

pytestmark = pytest.mark.mpi


def test_a_late_rank_unlike_plans_and_a_rank_that_raises() -> None:
    done = mpiexec(3, "tests.mpi.faults")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "laws kept on 3 ranks" in done.stdout


@pytest.mark.skipif("--with-ft" not in find_mpi().arguments(), reason="this MPI ends all ranks with one that dies")
@pytest.mark.parametrize("collective", [str(each) for each in on_real_ranks(3)])
def test_a_rank_that_is_killed_in_an_exchange_is_named_by_all_others(collective: str) -> None:
    told = mpiexec(3, "tests.mpi.faults", collective).stdout
    assert f"rank 0 of {collective}: named" in told
    assert f"rank 1 of {collective}: named" in told
