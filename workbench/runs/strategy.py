"""The strategy of a run as its job tells of it: in words, what it makes of the ranks, whether they share their steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from workbench.options import Table, options_of
from workbench.strategies import STRATEGIES, Strategy


def strategy_in(job: Mapping[str, Any]) -> Strategy | None:
    """The strategy of a job as its file has it; None for one that this version does not know."""
    told = dict(job.get("strategy") or {})
    known = STRATEGIES.get(told.pop("kind", ""))
    with suppress(ValueError):
        return known.from_json(told) if known is not None else None
    return None


def is_lockstep(job: Mapping[str, Any]) -> bool:
    """Whether all workers do their steps together."""
    strategy = strategy_in(job)
    return strategy is None or strategy.lockstep


def roles_of(job: Mapping[str, Any], ranks: int) -> tuple[str, ...]:
    """What each of `ranks` ranks is: "worker" or "server"."""
    strategy = strategy_in(job)
    return strategy.roles(ranks) if strategy is not None else ("worker",) * ranks


def workers_of(job: Mapping[str, Any], ranks: int) -> int:
    """How many ranks there are up to the last worker: what a plot of the workers has room for."""
    roles = roles_of(job, ranks)
    return ranks - (roles[::-1].index("worker") if "worker" in roles else 0)


def servers_in(events: Iterable[Mapping[str, Any]]) -> set[int]:
    """The ranks that have said at their start that they serve."""
    return {int(event["rank"]) for event in events if event["kind"] == "start" and event.get("role") == "server"}


def strategy_words(strategy: Mapping[str, Any]) -> str:
    """A strategy of a job file in a few words: "synchronous (ring, top-k(density=0.001), overlap)"; what is as by default is left out."""
    parts = _parts(strategy, STRATEGIES)
    kind = str(strategy.get("kind", "not known"))
    return f"{kind} ({', '.join(parts)})" if parts else kind


def _parts(told: Mapping[str, Any], table: Table) -> list[str]:
    """The words for each option of an entry of a table: entries of other tables always, all else where it is not the default."""
    cls = table.get(told.get("kind", ""))
    known = {each.name: each for each in options_of(cls)} if cls else {}
    parts = []
    for name, value in told.items():
        described = known.get(name)
        if isinstance(value, Mapping):
            inner = ", ".join(_parts(value, (described and described.table) or {}))
            parts.append(str(value.get("kind", name)) + (f"({inner})" if inner else ""))
        elif name != "kind" and value != (described.default if described else None):
            parts.append(name if value is True else value if isinstance(value, str) else f"{name}={value}")
    return parts
