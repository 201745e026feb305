"""When ranks talk and what they agree on. One file per strategy; `STRATEGIES` is the only list of them."""

from workbench.strategies.base import Exchange, Strategy, Worker
from workbench.strategies.elastic import Elastic
from workbench.strategies.gossip import Gossip
from workbench.strategies.groups import Groups
from workbench.strategies.parameter_server import ParameterServer
from workbench.strategies.sufficient_factors import SufficientFactors
from workbench.strategies.synchronous import Synchronous

STRATEGIES: dict[str, type[Strategy]] = {
    "synchronous": Synchronous,
    "parameter-server": ParameterServer,
    "elastic": Elastic,
    "gossip": Gossip,
    "groups": Groups,
    "sufficient-factors": SufficientFactors,
}

__all__ = ["STRATEGIES", "Elastic", "Exchange", "Gossip", "Groups", "ParameterServer", "Strategy", "SufficientFactors", "Synchronous", "Worker"]
