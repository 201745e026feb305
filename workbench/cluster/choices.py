"""What a person may choose when making a cluster, and whether it fits the one that is up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from workbench.cluster.registry import Record
from workbench.comm.network import Network
from workbench.options import unknown_name

LAUNCHERS: Final = ("mpi",)
PLANNED: Final = ("ssh", "slurm", "pbs", "lsf", "htcondor")


def check(ranks: Any, launcher: Any, hosts: Any, network: Any) -> None:
    """ValueError for a choice that no cluster can be made of."""
    if ranks is not None and (isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1):
        raise ValueError(f"Cluster(ranks={ranks!r}): ranks must be a whole number of at least 1, got {ranks!r}")
    if launcher in PLANNED:
        raise ValueError(f"Cluster(launcher={launcher!r}): this launcher is not built yet; launcher must be 'mpi', got {launcher!r}")
    if launcher not in LAUNCHERS:
        raise ValueError(f"Cluster(launcher={launcher!r}): {unknown_name('launcher', launcher, LAUNCHERS)}")
    if hosts is not None:
        raise ValueError(f"Cluster(hosts={hosts!r}): several hosts are not built yet; hosts must be None (this host), got {hosts!r}")
    if network is not None and not isinstance(network, (str, Network)):
        raise ValueError(
            f"Cluster(network={network!r}): network must be None, a Network or one of {', '.join(Network.PRESETS)}, got {type(network).__name__}"
        )
    if isinstance(network, str) and network not in Network.PRESETS:
        raise ValueError(f"Cluster(network={network!r}): {unknown_name('network', network, Network.PRESETS)}")


def check_hosts(network: Network | None, hosts: Iterable[str]) -> None:
    """ValueError for an emulated link between several hosts."""
    if network is not None and len(several := sorted(set(hosts))) > 1:
        raise ValueError(
            f"an emulated link needs all ranks on one host, whose clock they share; these are on {', '.join(several)}: choose network=None"
        )


def check_same(name: str, asked: Record, up: Record | None) -> None:
    """ValueError unless the cluster `name` that is up (None: not one of ours) is the one that is asked for."""
    if up is None:
        raise ValueError(
            f"a cluster {name!r} is up that the workbench did not start; choose another name, or stop it: ipcluster stop --cluster-id={name}"
        )
    if asked.describe() != up.describe():
        raise ValueError(
            f"the cluster {name!r} is up with {up.describe()}, this one has {asked.describe()}; "
            f"choose another name, or stop the one that is up: workbench stop {name}"
        )
