"""How a run ended, from how it ended on each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Outcome = Mapping[str, Any]


def verdict(outcomes: Mapping[int, Outcome], lost: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """{"status": "done", "stopped" or "failed", "steps", "error"} of a run.

    `outcomes` are those of the ranks that have one, `lost` the ranks whose process is gone, the first to go
    first, with what is known of them. The error is that of a lost rank, else of the one that failed first; ranks that only lost a peer or
    were told to end follow from it.
    """
    steps = max((int(outcome.get("steps", 0)) for outcome in outcomes.values()), default=0)
    error = _first_error(outcomes, lost)
    if error is not None:
        return {"status": "failed", "steps": steps, "error": error}
    stopped = any(outcome["status"] in ("stopped", "aborted") for outcome in outcomes.values())
    return {"status": "stopped" if stopped else "done", "steps": steps, "error": None}


def nobody(where: str) -> dict[str, Any]:
    """The particulars of an error that no rank is to blame for."""
    return _error(-1, {}, where)


def _first_error(outcomes: Mapping[int, Outcome], lost: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    if lost:
        dead = next(iter(lost))
        alone = len(lost) == 1 or set(outcomes) - set(lost)
        where = "its process is gone" if alone else "its process is gone, and with it all others: this MPI library cannot go on without a rank"
        return _error(dead, {**lost[dead], "steps": lost[dead].get("step", 0)}, where)
    failed = sorted((o for o in outcomes.values() if o["status"] == "failed"), key=lambda o: float(o.get("ended", 0.0)))
    if failed:
        first = failed[0]
        told = f"{first.get('error', 'Error')}: {first.get('message', '')}"
        where = f"{told} ({first['where']})" if first.get("where") else told
        return _error(int(first["rank"]), first, where, str(first.get("traceback", "")))
    gone = [int(o["peer"]) for o in outcomes.values() if o["status"] == "lost"]
    if gone:
        dead = min(gone)
        return _error(dead, outcomes.get(dead, {}), "the other ranks lost the connection to it")
    vanished = [rank for rank, outcome in outcomes.items() if outcome["status"] == "gone"]
    if vanished:
        return _error(min(vanished), {}, "the engines were restarted, or are in another run, and this run's end was not seen")
    return None


def _error(rank: int, particulars: Mapping[str, Any], where: str, traceback: str = "") -> dict[str, Any]:
    return {
        "rank": rank,
        "host": str(particulars.get("host", "")),
        "device": str(particulars.get("device", "")),
        "step": int(particulars.get("steps", 0)),
        "where": where,
        "traceback": traceback,
    }
