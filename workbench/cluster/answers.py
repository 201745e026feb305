"""What ranks answer when they are asked for their state, and what follows from it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cluster.status import RankStatus
from workbench.errors import ClusterBusy
from workbench.job import Job

if TYPE_CHECKING:
    from workbench.channel.link import Link, Reply

States = Mapping[int, "Reply | None"]
"""Rank -> what it said; None: nothing."""


def busy(states: States) -> bool:
    """Whether a run is on, as far as ranks answer."""
    return any(reply is not None and reply.content.get("run") and reply.content.get("outcome") is None for reply in states.values())


def free(link: Link) -> States:
    """What the ranks said; ClusterBusy if one does not answer or a run is on."""
    from workbench.channel.client import busy as error_of

    states = link.ask("state", timeout=5.0)
    for rank, reply in states.items():
        if reply is None:
            raise ClusterBusy(f"rank {rank} does not answer; if it hangs, cluster.restart() ends it")
        if reply.content.get("run") and reply.content.get("outcome") is None:
            raise error_of(reply.content["run"])
    return states


def spoiled(states: States) -> str:
    """Why no further run can begin on these ranks, as they say; empty if one can."""
    return next((str(reply.content["spoiled"]) for reply in states.values() if reply is not None and reply.content.get("spoiled")), "")


def job_in(folder: str) -> Job | None:
    """The job of a run that somebody else has begun, and ranks tell of; None where its folder cannot be read."""
    with contextlib.suppress(ValueError, OSError):
        return Job.load(folder) if Path(folder).is_dir() else None
    return None


def roles(states: States, ranks: int, folder: Path | None, job: Job | None) -> list[str]:
    """Role of each rank in the run that is on, whose job is `job` if it is in `folder`; all are workers while none is on."""
    replies = (reply.content for reply in states.values() if reply is not None)
    told = next((str(content["run"]) for content in replies if content.get("run") and content.get("outcome") is None), "")
    known = job if folder is not None and str(folder) == told else job_in(told) if told else None
    return list(known.strategy.roles(ranks)) if known is not None and told else ["worker"] * ranks


def rows(hello: Mapping[int, Mapping[str, Any]], states: States, there: Sequence[int], roles: Sequence[str]) -> list[RankStatus]:
    """One row per rank, from what it said of itself when it came and of its state now; `there`: the ranks that are connected."""
    told = []
    for rank, role in enumerate(roles):
        known, reply = hello.get(rank, {}), states.get(rank)
        state = "missing" if rank not in there else "no answer" if reply is None else str(reply.content.get("state", "idle"))
        where = (str(known.get("host", "")), int(known.get("pid", 0)) if rank in there else 0, str(known.get("device", "")))
        told.append(RankStatus(rank, *where, role=role, transport=str(known.get("transport", "")), state=state))
    return told
