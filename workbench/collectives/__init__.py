"""How a flat buffer becomes the mean of all ranks. One file per algorithm; `COLLECTIVES` is the only list of them."""

from workbench.collectives.base import Collective, Plan, Planned
from workbench.collectives.halving_doubling import HalvingDoubling
from workbench.collectives.native import Native
from workbench.collectives.ring import Ring

COLLECTIVES: dict[str, type[Collective]] = {
    "native": Native,
    "ring": Ring,
    "halving-doubling": HalvingDoubling,
}

__all__ = ["COLLECTIVES", "Collective", "HalvingDoubling", "Native", "Plan", "Planned", "Ring"]
