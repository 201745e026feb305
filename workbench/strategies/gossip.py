"""Workers mix with peers, and nobody waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, final

from workbench.callables import path_of
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option
from workbench.strategies import topologies
from workbench.strategies.base import Exchange, Strategy, Worker
from workbench.strategies.gossiping import Gossiping
from workbench.strategies.pairing import Pairing
from workbench.strategies.pulling import Pulling
from workbench.strategies.pushing import PushingAlike, PushingWeights

MODES: Final[dict[str, type[Gossiping]]] = {"pull": Pulling, "push": PushingAlike, "push-sum": PushingWeights, "pairwise": Pairing}


@final
@dataclass(frozen=True)
class Gossip(Strategy):
    """Decentralised SGD: every worker takes steps of its own and mixes with one peer now and then.

    `pull` and `push`: x_i <- (x_i + x_j) / 2 with what was asked for, or with what has come (Jin, Yuan, Iandola and Keutzer, 2016).
    `push-sum`: a push takes half of the weight along, and models are mixed by their weights (GOSGD; Blot, Picard, Cord and Thome, 2016); with
    topology="exponential" and gradient="numerator" it is stochastic gradient push (Assran, Loizou, Ballas and Rabbat, 2019), whose
    messages come when they come, and whose ranks keep a quarter of a fair share of the weight, so that none steps more than four times as far.
    `pairwise`: both move to the middle (AD-PSGD; Lian, Zhang, Zhang and Liu, 2018).

    What is asked for at one step is mixed in at the step at which it has come. A peer answers at its own steps. A push to a peer that has
    not taken the last one is skipped. Messages and bytes per step and worker depend on no number of workers: a model and a word or two,
    of pairwise twice that, times `probability` / `every`.
    """

    mode: Literal["pull", "push", "push-sum", "pairwise"] = option(
        "pull", choices=tuple(MODES), help="who moves: who asks, who is pushed to (push-sum: by weights that sum to one), or both of a pair"
    )
    every: int = option(1, minimum=1, unit="steps", help="local steps between two exchanges that a worker begins")
    probability: float = option(1.0, above=0, maximum=1, step=0.05, help="with which it does begin one then")
    topology: str = option(
        "random", help='who may talk to whom: random, ring, torus, exponential or "package.module:callable" (index, workers, round) -> peers'
    )
    patience_seconds: float = option(
        0.0, minimum=0, maximum=3600, unit="s", help="so long a step may wait for what it has asked for, or for a peer to take the last push"
    )
    gradient: Literal["estimate", "numerator"] = option(
        "estimate",
        choices=("estimate", "numerator"),
        help="of push-sum: a gradient moves the estimate, and counts by the worker's weight (GOSGD), or the numerator, and all count the same (SGP)",
    )

    def __post_init__(self) -> None:
        if callable(self.topology):
            object.__setattr__(self, "topology", path_of("topology", self.topology))
        super().__post_init__()
        topologies.check(self.topology)
        if self.gradient == "numerator" and self.mode != "push-sum":
            raise ValueError(f"Gossip(gradient='numerator'): gradient='numerator' is for mode='push-sum', got mode={self.mode!r}")

    @property
    def lockstep(self) -> bool:
        """Workers share no step."""
        return False

    @property
    def outlives(self) -> bool:
        """Nobody needs a certain peer."""
        return True

    @property
    def callables(self) -> tuple[str, ...]:
        """The user's topology."""
        return (self.topology,) if ":" in self.topology else ()

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side of one worker."""
        return MODES[self.mode](self, comm.channel(0), worker)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """One model per exchange and direction, of pairwise two: a worker's own, and on average another's. So long its link is busy; it travels while
        the worker goes on, which loses nothing of it without patience, and with patience also waits for its peer."""
        models = 2 if self.mode == "pairwise" else 1
        return models * network.seconds(nbytes) * self.probability / self.every if size > 1 else 0.0
