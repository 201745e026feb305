"""How a flat buffer becomes the mean of all ranks. One file per algorithm; `COLLECTIVES` is the only list of them."""

from workbench.collectives.all_to_all import AllToAll
from workbench.collectives.base import Collective, Plan, Planned
from workbench.collectives.central_server import CentralServer
from workbench.collectives.gloo import Gloo
from workbench.collectives.halving_doubling import HalvingDoubling
from workbench.collectives.hierarchical import Hierarchical
from workbench.collectives.multi_ring import MultiRing
from workbench.collectives.native import Native
from workbench.collectives.nccl import NCCL
from workbench.collectives.ring import Ring
from workbench.collectives.torus import Torus2D
from workbench.collectives.tree import Tree

COLLECTIVES: dict[str, type[Collective]] = {
    "native": Native,
    "ring": Ring,
    "halving-doubling": HalvingDoubling,
    "all-to-all": AllToAll,
    "torus": Torus2D,
    "hierarchical": Hierarchical,
    "tree": Tree,
    "multi-ring": MultiRing,
    "central-server": CentralServer,
    "gloo": Gloo,
    "nccl": NCCL,
}

PORTABLE = {name: made for name, made in COLLECTIVES.items() if not made.real_only}
"""Those that run on every communicator, also on virtual ranks and an emulated link."""

__all__ = [
    "COLLECTIVES",
    "NCCL",
    "PORTABLE",
    "AllToAll",
    "CentralServer",
    "Collective",
    "Gloo",
    "HalvingDoubling",
    "Hierarchical",
    "MultiRing",
    "Native",
    "Plan",
    "Planned",
    "Ring",
    "Torus2D",
    "Tree",
]
