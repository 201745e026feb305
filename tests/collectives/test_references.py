"""Where a collective of another library can run, and where it says that it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.cluster.virtual import VirtualCluster
from workbench.collectives import NCCL, Gloo
from workbench.comm.base import Communicator
from workbench.comm.virtual import VirtualWorld
from workbench.job import Job
from workbench.strategies import SufficientFactors, Synchronous
from workbench.wires import Int8


def test_no_plan_is_made_on_virtual_ranks() -> None:
    def body(comm: Communicator) -> str:
        with pytest.raises(ValueError, match=r"Gloo\(\).*virtual ranks.*Ring\(\)") as refusal:
            Gloo().plan(comm, np.zeros(4, np.float32))
        return str(refusal.value)

    assert len(set(VirtualWorld(2).run(body))) == 1


@pytest.mark.parametrize("strategy", [Synchronous(collective=Gloo()), SufficientFactors(collective=Gloo())])
def test_a_virtual_cluster_refuses_the_job_before_anything_starts(strategy: Synchronous | SufficientFactors) -> None:
    cluster = VirtualCluster(ranks=2)
    with pytest.raises(ValueError, match="virtual ranks"):
        cluster.train(Job(strategy=strategy))
    assert cluster.status().state == "down"
    assert cluster.run is None


def test_only_plain_numbers_are_summed() -> None:
    with pytest.raises(ValueError, match="float32 only"):
        Gloo().check_wire(Int8())


def test_nccl_asks_for_a_gpu_per_rank() -> None:
    from tests.mpi.test_laws import mpiexec

    done = mpiexec(2, "tests.collectives.without_gpus")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("NCCL() needs one GPU per rank") == 2
    with pytest.raises(ValueError, match="float32 only"):
        NCCL().check_wire(Int8())
