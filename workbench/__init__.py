"""A bench for distributed SGD: MPI ranks behind a notebook, exchange strategies as values, every rank visible while it trains.

    from workbench import Cluster, Job

    with Cluster(ranks=4) as cluster:
        print(cluster.train(Job(model="mlp", data="digits", epochs=3)).wait().summary())

Importing this package imports neither torch, MPI nor Jupyter; each name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.cluster.mpi import Cluster as Cluster
    from workbench.cluster.virtual import VirtualCluster as VirtualCluster
    from workbench.comm.network import Device as Device
    from workbench.comm.network import Network as Network
    from workbench.faults import Slow as Slow
    from workbench.job import Job as Job
    from workbench.runs.compare import compare as compare
    from workbench.runs.run import Run as Run

_FACE = {
    "Cluster": "workbench.cluster.mpi",
    "VirtualCluster": "workbench.cluster.virtual",
    "Network": "workbench.comm.network",
    "Device": "workbench.comm.network",
    "Job": "workbench.job",
    "Run": "workbench.runs.run",
    "Slow": "workbench.faults",
    "compare": "workbench.runs.compare",
}

__version__ = "0.1.0"
__all__ = ["Cluster", "Device", "Job", "Network", "Run", "Slow", "VirtualCluster", "compare"]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    value = getattr(import_module(_FACE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
