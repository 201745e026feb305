"""A run as the notebook follows it: records and events as they come, commands, and how it ended."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from workbench.channel.arrivals import Arrivals, OnEvent, OnRows
from workbench.channel.link import Link, Reply, reply_of
from workbench.channel.messages import LIMIT, Rows, unpack
from workbench.channel.verdict import nobody, verdict
from workbench.errors import ClusterBusy, ClusterGone, RunFolderDamaged, WorkbenchError
from workbench.store import read_json, read_source, write_json
from workbench.telemetry import TABLES

POLL_SECONDS: Final = 1.0
SILENT_SECONDS: Final = 2.5  # without a beacon for so long, a rank counts as not answering
GRACE_SECONDS: Final = 1.5  # after the first failure the other ranks have so long to notice by themselves


@final
class EngineFeed:
    """One run on the engines of a cluster; works the same from whichever process.

    `folder` names the run, `ranks` tells of each rank where it is, `alive` says whether the cluster's controller lives. A thread of
    its own asks the ranks once a second, which also repairs what was missed.
    """

    def __init__(self, link: Link, folder: Path, ranks: Mapping[int, Mapping[str, Any]], alive: Callable[[], bool]) -> None:
        self._link, self._folder, self._run, self._alive = link, Path(folder), str(folder), alive
        self._who, self._ranks = ranks, sorted(ranks)
        self._reports: dict[int, dict[str, Any]] = {}
        self._heard: dict[int, float] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._left: list[int] = []
        self._lost: set[int] = set()
        self._trouble_since = 0.0
        self._ending = False
        self._answered = time.monotonic()
        self._ended: dict[str, Any] | None = None
        self._over, self._look = threading.Event(), threading.Event()
        self._arrivals = Arrivals(self._folder.name, self._missed_events)
        self._unhook = [link.on_push(self._arrived), link.on_change(self._changed)]
        self.subscribe, self.subscribe_events = self._arrivals.subscribe, self._arrivals.subscribe_events

    subscribe: Callable[[OnRows], Callable[[], None]]
    """Have `callback(source, table, first, rows)` called, on the feed's thread, for the rows that arrive from now on."""
    subscribe_events: Callable[[OnEvent], Callable[[], None]]
    """Have `callback(event)` called, on the feed's thread, for what happens from now on: per rank in order, without a gap."""

    def begin(self, job: dict[str, Any], directory: str) -> None:
        """Have all ranks train `job`, with the user's modules from `directory`, and follow. ClusterBusy if a run is on."""
        try:
            # the lowest rank decides between two notebooks that begin at the same time
            for ranks in (self._ranks[:1], self._ranks[1:]):
                for rank, reply in self._link.ask("begin", ranks, timeout=10.0, run=self._run, job=job, directory=directory).items():
                    if reply is None or reply.content["status"] != "ok":
                        reason = "it does not answer" if reply is None else reply.content["evalue"]
                        self._link.send("abort", self._there(), run=self._run)
                        raise ClusterGone(f"rank {rank} did not begin: {reason}; cluster.restart() starts fresh ranks")
                    if not reply.content["accepted"]:
                        raise busy(reply.content["run"])
        except WorkbenchError:
            self._close()
            raise
        self.follow()

    def follow(self) -> None:
        """Follow the run, which is on or has ended on these ranks."""
        threading.Thread(target=self._watch, name=f"watch of {self._folder.name}", daemon=True).start()

    def end(self, patience: float) -> None:
        """A person ends the cluster: end the run at once, and whatever happens to its ranks now is no failure."""
        if self._ended is None:
            self._ending = True
            with contextlib.suppress(ClusterGone):
                self.command("abort", {})
            self.wait(patience if any(beacon["answered"] for beacon in self.beacons().values()) else 0.0)

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows so far, asked of the ranks; of a rank that does not answer, what it said last."""
        with contextlib.suppress(ClusterGone):
            for rank, reply in self._link.ask("state", self._there()).items():
                if reply is not None and reply.content.get("run") == self._run:
                    self._reports[rank] = reply.content
        return {source: dict(counts) for report in self._reports.values() for source, counts in report.get("counts", {}).items()}

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(number of the first, rows) of what a source has recorded from `since` on; from its rank, or else from the disk."""
        rank = int(source.split("-")[1].split(".")[0])
        parts: list[Rows] = []
        first = following = since
        while (reply := self._ask_one("pull", rank, source=source, table=table, since=following)) is not None:
            rows = unpack(table, reply.buffers[0])
            if not parts:
                first = int(reply.content["first"])
            parts.append(rows)
            following = int(reply.content["first"]) + len(rows)
            if len(rows) < LIMIT:
                return first, np.concatenate(parts)
        with contextlib.suppress(OSError):
            return read_source(self._folder, source, table, since)
        return since, np.zeros(0, TABLES[table])

    def command(self, verb: str, options: dict[str, Any]) -> int:
        """Send a command to all ranks; its number (0 for "abort", which needs none). WorkbenchError if nobody takes it."""
        there = self._there()
        if verb == "abort":
            self._link.send("abort", there, run=self._run)
            return 0
        if not there:
            raise ClusterGone(f"no rank of {self._folder.name} is there to {verb}")
        lead, *others = there
        # the lowest rank numbers the commands, so that those of several notebooks come in one order everywhere
        reply = self._link.ask("order", [lead], timeout=10.0, run=self._run, verb=verb, options=options).get(lead)
        if reply is None:
            raise WorkbenchError(f"rank {lead} does not answer, so {verb!r} has no effect yet; abort() the run, or restart() the cluster")
        if reply.content["status"] != "ok":
            raise WorkbenchError(f"{verb} was not taken: {reply.content['evalue']}")
        number = int(reply.content["number"])
        self._link.send("take", others, run=self._run, number=number, verb=verb, options=options)
        return number

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> "state", "operation" it waits for (None: none), "since_seconds", "step", and whether it has "answered" lately."""
        now, told = time.monotonic(), {}
        there = self._there() if self._link.open else []
        for rank in self._ranks:
            report, ended = self._reports.get(rank, {}), rank in self._outcomes
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

    def finished(self) -> dict[str, Any] | None:
        """None while the run goes on; then {"status": "done", "stopped" or "failed", "steps", "error": None or its particulars}."""
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until the run has ended and all its records have been handed on; False after `timeout` seconds."""
        return self._over.wait(timeout)

    def _arrived(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """On the connection's thread."""
        if content.get("run") != self._run:
            return
        rank = content["rank"]
        self._heard[rank] = time.monotonic()
        match content["kind"]:
            case "beacon":
                self._reports[rank] = self._reports.get(rank, {}) | content["beacon"]
            case "rows":
                self._arrivals.rows(content["source"], content["table"], content["first"], unpack(content["table"], buffers[0]))
            case "event":
                self._arrivals.event(rank, content["event"])
            case "outcome":  # sent behind all records
                self._outcomes[rank] = content["outcome"]
                self._look.set()

    def _changed(self, came: bool, rank: int) -> None:
        """On the connection's thread: the first that went is the one that the others follow."""
        if not came and rank in self._ranks:
            self._left.append(rank)
        self._look.set()

    def _missed_events(self, rank: int, since: int) -> list[dict[str, Any]]:
        reply = self._ask_one("events", rank, since=since)
        return list(reply.content["events"]) if reply is not None else []

    def _there(self) -> list[int]:
        return [rank for rank in self._link.ranks if rank in self._ranks and rank not in self._lost]

    def _ask_one(self, what: str, rank: int, **content: Any) -> Reply | None:
        """What a rank of this run answers; None if it does not, or is in another run by now."""
        with contextlib.suppress(ClusterGone):
            if rank in self._there():
                reply = self._link.ask(what, [rank], run=self._run, **content).get(rank)
                if reply is not None and reply.content["status"] == "ok":
                    return reply
        return None

    def _watch(self) -> None:
        """Ask the ranks once a second, or when something has happened, until all have an outcome or are gone."""
        asked: dict[int, Any] = {}
        try:
            while True:
                self._look.clear()
                self._ask_states(asked)
                self._repair_commands()
                if self._all_over():
                    break
                self._look.wait(POLL_SECONDS)
            self._hand_on_the_rest()
            self._end(self._judge())
        except ClusterGone as error:
            # this process lets go of the cluster; the run goes on, and its folder will say how it ended
            self._ended = self._on_disk() or {"status": "failed", "steps": 0, "error": nobody(str(error))}
            self._close()

    def _ask_states(self, asked: dict[int, Any]) -> None:
        """Ask those that have answered the last question; one that hangs in C code is not asked again and again."""
        there = self._there()
        for rank in [rank for rank in asked if rank not in there]:
            del asked[rank]
        asked |= self._link.send("state", [rank for rank in there if rank not in asked])
        deadline = time.monotonic() + 0.8
        for rank, future in list(asked.items()):
            future.wait(max(0.0, deadline - time.monotonic()))
            reply = reply_of(future)
            if reply is not None:
                del asked[rank]
                self._answered = time.monotonic()
                self._take_report(rank, reply.content)

    def _take_report(self, rank: int, report: dict[str, Any]) -> None:
        if report.get("run") == self._run:
            self._reports[rank], self._heard[rank] = report, time.monotonic()
            self._arrivals.known(rank, report["events"])
            if report["outcome"] is not None:
                self._outcomes[rank] = report["outcome"]
        else:
            # the engine was restarted, or is in another run: what it did here can only be read from the disk
            self._outcomes.setdefault(rank, {"rank": rank, "status": "gone"})

    def _repair_commands(self) -> None:
        """Give a rank the commands that it has missed: whoever sent them may have ended in between."""
        newest = {rank: int(self._reports[rank].get("newest", 0)) for rank in self._there() if rank in self._reports and rank not in self._outcomes}
        behind = [rank for rank in newest if newest[rank] < newest[min(newest)]]
        if behind:
            reply = self._ask_one("commands", min(newest), after=min(newest.values()))
            for number, verb, options in reply.content["commands"] if reply is not None else ():
                self._link.send("take", behind, run=self._run, number=number, verb=verb, options=options)

    def _all_over(self) -> bool:
        """Whether every rank has an outcome or is gone. When one has failed, the others are soon told to end."""
        now, there = time.monotonic(), self._there()
        self._lost |= {rank for rank in self._ranks if rank not in there and rank not in self._outcomes}
        left = [rank for rank in there if rank not in self._outcomes]
        if left and now - self._answered > SILENT_SECONDS and not self._alive():
            self._lost |= set(left)
            left = []
        if left and (self._lost or any(outcome["status"] not in ("done", "stopped") for outcome in self._outcomes.values())):
            self._trouble_since = self._trouble_since or now
            if now - self._trouble_since > GRACE_SECONDS:
                self._link.send("abort", left, run=self._run)
        return not left

    def _hand_on_the_rest(self) -> None:
        for source, counts in self.sources().items():
            for table, count in counts.items():
                self._arrivals.drain(10)
                since = self._arrivals.following(source, table)
                if since < count:
                    self._arrivals.rows(source, table, *self.pull(source, table, since))
        for rank, report in self._reports.items():
            self._arrivals.known(rank, report.get("events", 0))
        self._arrivals.drain(10)

    def _judge(self) -> dict[str, Any]:
        if all(outcome["status"] == "gone" for outcome in self._outcomes.values()) and (told := self._on_disk()):
            return told
        lost = sorted(self._lost, key=lambda rank: self._left.index(rank) if rank in self._left else len(self._left))
        told = verdict(self._outcomes, {rank: {**self._who[rank], **self._reports.get(rank, {})} for rank in lost})
        return {**told, "status": "stopped", "error": None} if self._ending and self._lost else told

    def _on_disk(self) -> dict[str, Any] | None:
        """How the run ended, if it is written down."""
        with contextlib.suppress(OSError, RunFolderDamaged):
            told: dict[str, Any] = read_json(self._folder / "status.json")
            return told
        return None

    def _end(self, ended: dict[str, Any]) -> None:
        if self._on_disk() != ended:
            with contextlib.suppress(OSError):  # the folder may be gone
                write_json(self._folder / "status.json", ended)
        self._ended = ended
        self._close()

    def _close(self) -> None:
        for unhook in self._unhook:
            unhook()
        self._arrivals.close()
        self._over.set()


def busy(run: str) -> ClusterBusy:
    """The error of whoever asks for a second run."""
    return ClusterBusy(f"the run {Path(run).name} is on (it is cluster.run); wait for it, run.wait(), or end it, run.stop(), before the next one")
