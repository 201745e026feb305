"""What is known of the ranks of one run: what they said last, how it ended on them, which of them are gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from workbench.channel.link import Link, Reply, reply_of
from workbench.channel.verdict import nobody, verdict
from workbench.errors import ClusterGone

SILENT_SECONDS: Final = 2.5  # without a word for so long, a rank counts as not answering
ANSWER_SECONDS: Final = 0.8


@final
class Ranks:
    """The ranks of the run `run`. `who` tells of each where it is; `alive` says whether the cluster's controller lives."""

    def __init__(self, link: Link, run: str, who: Mapping[int, Mapping[str, Any]], alive: Callable[[], bool]) -> None:
        self.link, self.run, self._who, self._alive = link, run, who, alive
        self.all = sorted(who)
        self.reports: dict[int, dict[str, Any]] = {}
        self.outcomes: dict[int, dict[str, Any]] = {}
        self._heard: dict[int, float] = {}
        self._left: list[int] = []
        self._lost: set[int] = set()
        self._asked: dict[int, Any] = {}
        self._answered = time.monotonic()
        self._abandoned = False

    def there(self) -> list[int]:
        """The ranks whose engine is registered."""
        return [rank for rank in self.link.ranks if rank in self._who and rank not in self._lost]

    def ask_one(self, what: str, rank: int, **content: Any) -> Reply | None:
        """What a rank of this run answers; None if it does not, or is in another run by now."""
        with contextlib.suppress(ClusterGone):
            if rank in self.there():
                reply = self.link.ask(what, [rank], run=self.run, **content).get(rank)
                if reply is not None and reply.content["status"] == "ok":
                    return reply
        return None

    def ask_counts(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows so far; of a rank that does not answer, what it said last."""
        with contextlib.suppress(ClusterGone):
            for rank, reply in self.link.ask("state", self.there()).items():
                if reply is not None and reply.content.get("run") == self.run:
                    self.reports[rank] = reply.content
        return {source: dict(counts) for report in self.reports.values() for source, counts in report.get("counts", {}).items()}

    def ask_states(self) -> None:
        """Ask those that have answered the last question; one that hangs in C code is not asked again and again."""
        there = self.there()
        self._asked = {rank: future for rank, future in self._asked.items() if rank in there}
        self._asked |= self.link.send("state", [rank for rank in there if rank not in self._asked])
        deadline = time.monotonic() + ANSWER_SECONDS
        for rank, future in list(self._asked.items()):
            future.wait(max(0.0, deadline - time.monotonic()))
            reply = reply_of(future)
            if reply is not None:
                del self._asked[rank]
                self._take_report(rank, reply.content)

    def heard(self, rank: int, beacon: Mapping[str, Any] | None = None) -> None:
        """A rank has pushed something. On the connection's thread."""
        self._heard[rank] = time.monotonic()
        if beacon is not None:
            self.reports[rank] = {**self.reports.get(rank, {}), **beacon}

    def gone(self, rank: int) -> None:
        """An engine has gone: the first one is that which the others may follow. On the connection's thread."""
        if rank in self._who:
            self._left.append(rank)

    def left_to_end(self) -> list[int]:
        """The ranks that are still at work; those that are gone are noted as lost."""
        there = self.there()
        self._lost |= {rank for rank in self.all if rank not in there and rank not in self.outcomes}
        left = [rank for rank in there if rank not in self.outcomes]
        if left and time.monotonic() - self._answered > SILENT_SECONDS and not self._alive():
            self._lost |= set(left)
            self._abandoned, left = True, []
        return left

    @property
    def trouble(self) -> bool:
        """Whether a rank has failed, or is lost and not outlived, so that the others will not come to a good end."""
        return (bool(self._lost) and not self._outlived) or any(outcome["status"] not in ("done", "stopped") for outcome in self.outcomes.values())

    @property
    def _outlived(self) -> bool:
        """Whether those that are not lost go on without one that is."""
        return any(report.get("outlives") for rank, report in self.reports.items() if rank not in self._lost)

    @property
    def unsure(self) -> bool:
        """Whether a rank could not tell its end: it is lost, or does not know the run any more. What somebody has written down counts then."""
        return bool(self._lost) or any(outcome["status"] == "gone" for outcome in self.outcomes.values())

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> "state", "operation" it waits for (None: none), "since_seconds", "step", and whether it has "answered" lately."""
        now, told = time.monotonic(), {}
        there = self.there() if self.link.open else []
        for rank in self.all:
            report, ended = self.reports.get(rank, {}), rank in self.outcomes
            quiet = now - self._heard.get(rank, now)
            waits = None if ended else report.get("operation")
            told[rank] = {
                "state": "lost" if rank in self._lost else str(report.get("state", "starting")),
                "operation": waits,
                "since_seconds": float(report.get("since_seconds", 0.0)) + quiet if waits is not None else 0.0,
                "step": int(report.get("step", 0)),
                "answered": rank in there and rank in self._heard and (ended or quiet < SILENT_SECONDS),
            }
        return told

    def judge(self, ending: bool) -> dict[str, Any]:
        """How the run ended, once no rank is left. `ending`: a person has ended the cluster."""
        lost = sorted(self._lost, key=lambda rank: self._left.index(rank) if rank in self._left else len(self._left))
        told = verdict(self.outcomes, {rank: {**self._who[rank], **self.reports.get(rank, {})} for rank in lost}, not self.there(), self._outlived)
        if not self._lost or not (ending or self._abandoned):
            return told
        if self._abandoned and not self.outcomes:
            return {**told, "error": nobody("the controller of the cluster is gone, and its ranks ended")}
        # a person ended the cluster, or its ranks ended themselves: that some had no time to say so is no failure
        rest = verdict(self.outcomes, {})
        return {**rest, "status": "stopped"} if rest["error"] is None else rest

    def _take_report(self, rank: int, report: dict[str, Any]) -> None:
        self._answered = time.monotonic()
        if report.get("run") == self.run:
            self.reports[rank], self._heard[rank] = report, self._answered
            if report["outcome"] is not None:
                self.outcomes[rank] = report["outcome"]
        else:
            # the engine was restarted, or is in another run: what it did here can only be read from the disk
            self.outcomes.setdefault(rank, {"rank": rank, "status": "gone"})
