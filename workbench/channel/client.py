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
from workbench.channel.link import Link
from workbench.channel.messages import LIMIT, Rows, unpack
from workbench.channel.ranks import Ranks
from workbench.channel.verdict import nobody
from workbench.comm.network import Network
from workbench.errors import ClusterBusy, ClusterGone, RunFolderDamaged, WorkbenchError
from workbench.store import read_json, read_source, write_json
from workbench.telemetry import TABLES

POLL_SECONDS: Final = 1.0
ABORT_SECONDS: Final = 3.0  # a rank that has not ended so long after an abort is interrupted
GRACE_SECONDS: Final = 1.5  # after the first failure the other ranks have so long to notice by themselves


@final
class EngineFeed:
    """One run on the engines of a cluster; works the same from whichever process.

    `folder` names the run, `ranks` tells of each rank where it is, `alive` says whether the cluster's controller lives.
    A thread of its own asks the ranks once a second, which also repairs what was missed.
    """

    def __init__(self, link: Link, folder: Path, ranks: Mapping[int, Mapping[str, Any]], alive: Callable[[], bool]) -> None:
        self._link, self._folder, self._run = link, Path(folder), str(folder)
        self._ranks = Ranks(link, self._run, ranks, alive)
        self._trouble_since = 0.0
        self._ending = False
        self._abort_sent = 0.0
        self._ended: dict[str, Any] | None = None
        self._over, self._look = threading.Event(), threading.Event()
        self._arrivals = Arrivals(self._folder.name, self._missed_events)
        self._unhook = [link.on_push(self._arrived), link.on_change(self._changed)]

    def begin(self, job: dict[str, Any], directory: str, network: Network | None = None) -> None:
        """Have all ranks train `job`, with the user's modules from `directory`, on an emulated `network` if one is given, and follow.

        ClusterBusy if a run is on.
        """
        every, order = self._ranks.all, {"run": self._run, "job": job, "directory": directory, "network": network and network.to_json()}
        try:
            # the lowest rank decides between two notebooks that begin at the same time
            for ranks in (every[:1], every[1:]):
                for rank, reply in self._link.ask("begin", ranks, timeout=10.0, **order).items():
                    if reply is None or reply.content["status"] != "ok":
                        reason = "it does not answer" if reply is None else reply.content["evalue"]
                        self._link.send("abort", self._ranks.there(), run=self._run)
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

    def subscribe(self, callback: OnRows, /) -> Callable[[], None]:
        """Have `callback(source, table, first, rows)` called, on the feed's thread, for the rows that arrive from now on."""
        return self._arrivals.subscribe(callback)

    def subscribe_events(self, callback: OnEvent, /) -> Callable[[], None]:
        """Have `callback(event)` called, on the feed's thread, for what happens from now on: per rank in order, without a gap."""
        return self._arrivals.subscribe_events(callback)

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows so far, asked of the ranks; of a rank that does not answer, what it said last."""
        return self._ranks.ask_counts()

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(number of the first, rows) of what a source has recorded from `since` on; from its rank, or else from the disk."""
        rank = int(source.split("-")[1].split(".")[0])
        parts: list[Rows] = []
        first = following = since
        while (reply := self._ranks.ask_one("pull", rank, source=source, table=table, since=following)) is not None:
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
        there = self._ranks.there()
        if verb == "abort":
            self._link.send("abort", there, run=self._run)
            self._abort_sent = self._abort_sent or time.monotonic()
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
        return self._ranks.beacons()

    def finished(self) -> dict[str, Any] | None:
        """None while the run goes on; then {"status": "done", "stopped" or "failed", "steps", "error": None or its particulars}."""
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until the run has ended and all its records have been handed on; False after `timeout` seconds."""
        return self._over.wait(timeout)

    def end(self, patience: float) -> None:
        """A person ends the cluster: end the run at once, and whatever happens to its ranks now is no failure."""
        if self._ended is None:
            self._ending = True
            with contextlib.suppress(ClusterGone):
                self.command("abort", {})
            told = self.beacons().values()
            if not self.wait(patience if any(beacon["answered"] for beacon in told) else 0.0):
                # others follow the run too, and would take the end of its ranks for a failure
                ended = {"status": "stopped", "steps": max((int(beacon["step"]) for beacon in told), default=0), "error": None}
                with contextlib.suppress(OSError):
                    write_json(self._folder / "status.json", ended)

    # on the connection's thread

    def _arrived(self, content: dict[str, Any], buffers: list[Any]) -> None:
        if content.get("run") != self._run:
            return
        rank = content["rank"]
        self._ranks.heard(rank, content.get("beacon"))
        match content["kind"]:
            case "rows":
                for (source, table, first), data in zip(content["batches"], buffers, strict=True):
                    self._arrivals.rows(source, table, first, unpack(table, data))
            case "event":
                self._arrivals.event(rank, content["event"])
            case "outcome":  # sent behind all records
                self._ranks.outcomes[rank] = content["outcome"]
                self._look.set()

    def _changed(self, came: bool, rank: int) -> None:
        if not came:
            self._ranks.gone(rank)
        self._look.set()

    # on the thread that asks

    def _watch(self) -> None:
        """Ask the ranks once a second, or when something has happened, until all have an outcome or are gone."""
        try:
            while True:
                self._look.clear()
                self._ranks.ask_states()
                self._repair()
                left = self._ranks.left_to_end()
                if not left:
                    break
                self._end_others(left)
                self._interrupt(left)
                self._look.wait(POLL_SECONDS)
            self._hand_on_the_rest()
            told = self._on_disk() if self._ranks.unsure else None
            self._end(told or self._ranks.judge(self._ending))
        except ClusterGone as error:
            # this process lets go of the cluster; the run goes on, and its folder will say how it ended
            self._ended = self._on_disk() or {"status": "failed", "steps": 0, "error": nobody(str(error))}
            self._close()

    def _repair(self) -> None:
        """Ask for events that did not arrive; give a rank the commands that it has missed, whose sender may have ended in between."""
        reports = {rank: self._ranks.reports[rank] for rank in self._ranks.there() if rank in self._ranks.reports}
        for rank, report in reports.items():
            self._arrivals.known(rank, report.get("events", 0))
        newest = {rank: int(report.get("newest", 0)) for rank, report in reports.items() if rank not in self._ranks.outcomes}
        behind = [rank for rank in newest if newest[rank] < newest[min(newest)]]
        if behind:
            reply = self._ranks.ask_one("commands", min(newest), after=min(newest.values()))
            for number, verb, options in reply.content["commands"] if reply is not None else ():
                self._link.send("take", behind, run=self._run, number=number, verb=verb, options=options)

    def _end_others(self, left: list[int]) -> None:
        """When a rank has failed, the others are told to end, if they have not noticed soon."""
        if self._ranks.trouble:
            self._trouble_since = self._trouble_since or time.monotonic()
            if time.monotonic() - self._trouble_since > GRACE_SECONDS:
                self._link.send("abort", left, run=self._run)
                self._abort_sent = self._abort_sent or time.monotonic()

    def _interrupt(self, left: list[int]) -> None:
        """A rank that does not heed an abort is in the user's code, which an interrupt ends where it sleeps or computes in Python."""
        if self._abort_sent and time.monotonic() - self._abort_sent > ABORT_SECONDS:
            self._link.signal("SIGINT", left)
            self._abort_sent = time.monotonic()

    def _missed_events(self, rank: int, since: int) -> list[dict[str, Any]]:
        reply = self._ranks.ask_one("events", rank, since=since)
        return list(reply.content["events"]) if reply is not None else []

    def _hand_on_the_rest(self) -> None:
        self._arrivals.drain(10)
        for source, counts in self.sources().items():
            for table, count in counts.items():
                since = self._arrivals.following(source, table)
                if since < count:
                    self._arrivals.rows(source, table, *self.pull(source, table, since))
        for rank, report in self._ranks.reports.items():
            self._arrivals.known(rank, report.get("events", 0))
        self._arrivals.drain(10)

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
