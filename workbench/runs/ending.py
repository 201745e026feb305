"""How a run ended, told from its folder alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from workbench.errors import RunFolderDamaged
from workbench.store import EVENTS_FILE, is_whole, read_json, read_mapping

QUIET_SECONDS: Final = 60.0
"""After so long without a record a run whose processes cannot be seen (another host) counts as over; pauses excepted."""

ENDINGS: Final = ("done", "stopped", "failed")
"""The ways in which a run ends."""

Event = Mapping[str, Any]


def ending_of(folder: Path, events: Iterable[Event], changed: float, damage: list[str] | None = None) -> dict[str, Any] | None:
    """None while the run goes on, else {"status": "done", "stopped" or "failed", "steps", "error"}.

    `changed` is when the folder last gained a record, in seconds since 1970. What counts, in this order: status.json,
    which whoever followed the run wrote at its end (a damaged one counts as missing, and `damage` gets a line that
    says so); the events, when every rank has told its end or its error; the processes of the ranks, when they ran on
    this host; at last, how long nothing has been recorded.

    Processes that are gone end a run, but those that are there do not keep it going: engines outlive their runs. A run
    that has recorded nothing for `QUIET_SECONDS` is over although its processes are there when one of its ranks has
    told an error (or its end, unless the others are paused), or when the same processes have begun a newer run beside
    it, for they do one at a time. With neither it counts as going on, however long: a step may be long, and a rank
    whose disk is full can tell nobody here; whoever follows the ranks themselves knows more.
    """
    told = _written_down(folder, damage)
    if told is not None:
        return told
    events = list(events)
    by_events = _told_by_events(events)
    if by_events is not None:
        return by_events
    steps = max((int(event.get("step") or 0) for event in events), default=0)
    alive = _processes_alive(folder)
    if alive is False:
        return {"status": "failed", "steps": steps, "error": _nobody("its processes are gone and none of them told why")}
    quiet = time.time() - changed
    if quiet <= QUIET_SECONDS:
        return None
    failed = _failed_by(events)
    if failed is not None:
        return failed
    if alive and _newer_run(folder):
        return {"status": "failed", "steps": steps, "error": _nobody("its processes went on to another run, and nobody told how it ended")}
    if is_paused(events):
        return None
    if any(event["kind"] in ("end", "abort") for event in events):
        return {"status": "failed", "steps": steps, "error": _nobody("some of its ranks ended, and the others never told how")}
    if alive is None:
        return {"status": "failed", "steps": steps, "error": _nobody(f"nothing was recorded for {quiet:.0f} s, and nobody told how it ended")}
    return None


def is_paused(events: Iterable[Event]) -> bool:
    """Whether every rank that has told of a pause is still in it."""
    held = {event.get("rank"): event["kind"] == "pause" for event in events if event["kind"] in ("pause", "resume")}
    return bool(held) and all(held.values())


def last_change(folder: Path) -> float:
    """When the folder last gained a record, in seconds since 1970."""
    files = [*folder.glob("*.arrow"), folder / EVENTS_FILE, folder / "job.json"]
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)


def _written_down(folder: Path, damage: list[str] | None) -> dict[str, Any] | None:
    """What status.json says, checked; None if it is missing or damaged."""
    path = folder / "status.json"
    try:
        told = read_mapping(path, whole=("steps",))
        error = told.get("error")
        if told.get("status") not in ENDINGS:
            raise RunFolderDamaged(f"{path} is damaged: 'status' must be one of {', '.join(ENDINGS)}, got {str(told.get('status'))[:80]!r}")
        if error is not None and not (isinstance(error, dict) and isinstance(error.get("rank", -1), int) and is_whole(error.get("step"))):
            raise RunFolderDamaged(f"{path} is damaged: 'error' must be the particulars of a rank's error, got {str(error)[:80]!r}")
    except FileNotFoundError:
        return None
    except RunFolderDamaged as damaged:
        if damage is not None and str(damaged) not in damage:
            damage.append(str(damaged))
        return None
    return {**told, "steps": told.get("steps") or 0, "error": {"rank": -1, **error} if error is not None else None}


def _told_by_events(events: list[Event]) -> dict[str, Any] | None:
    started = {event.get("rank"): event for event in events if event["kind"] == "start"}
    errors = [event for event in events if event["kind"] == "error"]
    ended = {event.get("rank"): event for event in events if event["kind"] in ("end", "abort")}
    expected = max((int(event.get("ranks") or event.get("workers") or 0) for event in started.values()), default=0)
    steps = max((int(event.get("step") or 0) for event in [*ended.values(), *errors]), default=0)
    dead = _outlived(events)
    over = {event.get("rank") for event in errors} | set(ended) | dead | {event["lost"] for event in errors if event.get("lost") is not None}
    if errors and len(over) >= max(len(started), 1):
        return _failed_by(events)
    if ended and len(set(ended) | dead) >= max(expected, len(started)):
        stopped = any(event["kind"] == "abort" or event.get("status") == "stopped" for event in ended.values())
        return {"status": "stopped" if stopped else "done", "steps": steps, "error": None}
    return None


def _outlived(events: list[Event]) -> set[Any]:
    """The ranks of which another has told a fault: they have died, and the others went on."""
    faults = [event for event in events if event["kind"] == "fault" and str(event.get("source")).startswith("rank-")]
    return {event.get("rank") for event in faults if not event["source"].startswith(f"rank-{event.get('rank', -1):05d}.")}


def _failed_by(events: list[Event]) -> dict[str, Any] | None:
    """The end of a run by the first error that a rank has told; None if none has."""
    started = {event.get("rank"): event for event in events if event["kind"] == "start"}
    errors = [event for event in events if event["kind"] == "error"]
    if not errors:
        return None
    # a rank that lost a peer failed because of another
    first = min(errors, key=lambda event: (event.get("lost") is not None, float(event.get("seconds") or 0)))
    steps = max(int(event.get("step") or 0) for event in events if event["kind"] in ("error", "end", "abort"))
    return {"status": "failed", "steps": steps, "error": _error_of(first, started.get(first.get("rank"), {}))}


def _error_of(event: Event, start: Event) -> dict[str, Any]:
    told = f"{event.get('error', 'Error')}: {event.get('message', '')}"
    return {
        "rank": int(event.get("rank", -1)),
        "host": str(start.get("host", "")),
        "device": str(start.get("device", "")),
        "step": int(event.get("step") or 0),
        "where": f"{told} ({event['where']})" if event.get("where") else told,
        "traceback": str(event.get("traceback", "")),
    }


def _nobody(where: str) -> dict[str, Any]:
    return {"rank": -1, "host": "", "device": "", "step": 0, "where": where, "traceback": ""}


def _processes_alive(folder: Path) -> bool | None:
    """Whether one of the run's processes is there; None when that cannot be seen from here."""
    processes = _processes(folder)
    if not processes or any(host != socket.gethostname() for host, _ in processes):
        return None
    try:
        begun = (folder / "job.json").stat().st_mtime
    except OSError:
        return None
    for _, pid in processes:
        try:
            # a process that is younger than the run has only inherited the number
            if psutil.Process(pid).create_time() <= begun + 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            continue
    return False


def _newer_run(folder: Path) -> bool:
    """Whether one of the run's processes has begun another run beside it since."""
    mine = _processes(folder)
    try:
        begun = (folder / "cluster.json").stat().st_mtime
        newer = [path for path in folder.parent.glob("*/cluster.json") if path.parent.name != folder.name and path.stat().st_mtime > begun]
    except OSError:
        return False
    return any(mine & _processes(path.parent) for path in newer)


def _processes(folder: Path) -> set[tuple[str, int]]:
    """(host, process) of every rank, as cluster.json has them; none if it cannot be read."""
    try:
        return {(str(rank["host"]), int(rank["pid"])) for rank in read_json(folder / "cluster.json")["ranks"]}
    except (OSError, KeyError, TypeError, ValueError, RunFolderDamaged):
        return set()
