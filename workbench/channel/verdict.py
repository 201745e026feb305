"""How a run ended, from how it ended on each rank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Outcome = Mapping[str, Any]


def verdict(outcomes: Mapping[int, Outcome], lost: Mapping[int, Mapping[str, Any]], all_gone: bool = False, outlived: bool = False) -> dict[str, Any]:
    """{"status": "done", "stopped" or "failed", "steps", "error"} of a run.

    `outcomes` are those of the ranks that have one, `lost` the ranks whose process is gone, the first to go
    first, with what is known of them; `all_gone`: no rank has a process any more; `outlived`: ranks go on without one that dies, so
    that it counts only where one of them could not. The error is that of a lost rank, else of the one that failed first; ranks that
    only lost a peer or were told to end follow from it.
    """
    steps = max((int(outcome.get("steps", 0)) for outcome in outcomes.values()), default=0)
    if outlived and outcomes and not any(outcome["status"] == "lost" and outcome["peer"] in lost for outcome in outcomes.values()):
        lost = {}
    error = _first_error(outcomes, lost, all_gone)
    if error is not None:
        return {"status": "failed", "steps": steps, "error": error}
    stopped = any(outcome["status"] in ("stopped", "aborted") for outcome in outcomes.values())
    return {"status": "stopped" if stopped else "done", "steps": steps, "error": None}


def nobody(where: str) -> dict[str, Any]:
    """The particulars of an error that no rank is to blame for."""
    return _error(-1, {}, where)


def _first_error(outcomes: Mapping[int, Outcome], lost: Mapping[int, Mapping[str, Any]], all_gone: bool) -> dict[str, Any] | None:
    if lost:
        dead = next(iter(lost))
        together = len(set(lost) | set(outcomes)) > 1 and (all_gone or (len(lost) > 1 and not set(outcomes) - set(lost)))
        survives = re.match(r"Open MPI ([5-9]|\d\d)", str(lost[dead].get("mpi", "")))
        if together and survives:  # there, ranks outlive a dead one: it was none of them
            return nobody("the processes of all ranks are gone: mpiexec has ended, or something has ended all of them")
        where = "its process is gone, and with it all others: this MPI library cannot go on without a rank" if together else "its process is gone"
        return _error(dead, lost[dead], where)
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
        # where it was when it failed; the records end before
        "step": int(particulars.get("step", particulars.get("steps", 0))),
        "where": where,
        "traceback": traceback,
    }
