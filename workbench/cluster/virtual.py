"""The notebook's side of a virtual cluster: simulated ranks, network and clock in a process of their own."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final

from workbench.cluster.facts import cluster_facts
from workbench.cluster.naming import label_of
from workbench.cluster.status import ClusterStatus, RankStatus
from workbench.collectives.simulated import check_simulated
from workbench.comm.network import Device, Network
from workbench.errors import ClusterBusy, ClusterGone
from workbench.job import Job
from workbench.store import create_run_folder, write_json

if TYPE_CHECKING:
    from workbench.cluster.child import Child
    from workbench.cluster.worldfeed import WorldFeed
    from workbench.runs.run import Run

PACES: Final = ("fast", "real")
START_SECONDS: Final = 60.0


@final
class VirtualCluster:
    """Simulated ranks behind a notebook: any number of them, on any network, on this machine.

    `network` is a Network or the name of a preset ("100M", "1G", "10G"); `device` says what a rank computes with, and
    what it does not say is measured once per model and batch. `pace="real"` sleeps so that a run takes the time it
    would take. `folder`: where the folders of runs are made. The same jobs give the same results as on real ranks.
    """

    launcher: Final = "virtual"

    def __init__(
        self,
        ranks: int = 4,
        network: Network | str = "1G",
        device: Device | None = None,
        pace: str = "fast",
        folder: str | Path = "runs",
        name: str = "virtual",
    ) -> None:
        if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
            raise ValueError(f"VirtualCluster(ranks={ranks!r}): ranks must be a whole number of at least 1, got {ranks!r}")
        if pace not in PACES:
            raise ValueError(f"VirtualCluster(pace={pace!r}): pace must be 'fast' or 'real', got {pace!r}")
        if device is not None and not isinstance(device, Device):
            raise ValueError(f"VirtualCluster(device={device!r}): device must be a Device, got {type(device).__name__}")
        self.ranks, self.pace, self.folder, self.name = ranks, pace, Path(folder), name
        self.network, self.device = Network.of(network), device or Device()
        self._child: Child | None = None
        self._feed: WorldFeed | None = None
        self._run: Run | None = None
        self._job: Job | None = None
        self._begun = False  # somebody has called `start`, `stop` or `train`
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"VirtualCluster(ranks={self.ranks}, network={self.network}, device={self.device}, pace={self.pace!r})"

    def start(self, timeout: float = START_SECONDS) -> Self:
        """Start the process of the virtual world, if it is not there. ClusterNotStarted, with what it said, if it does not come."""
        from workbench.cluster.child import Child

        with self._lock:
            self._begun = True
            if self._child is None or not self._child.alive:
                if self._child is not None:
                    self._child.stop()
                self._child = Child(self._arrived, self._lost, timeout)
            return self

    def restart(self, timeout: float = START_SECONDS) -> Self:
        """End the world, whatever its ranks do, and start a fresh one."""
        with self._lock:
            self.stop()
            return self.start(timeout)

    def stop(self) -> None:
        """End the run if one is on (its records are kept) and the process. Nothing happens if it is down."""
        with self._lock:
            child, self._child, self._begun = self._child, None, True
            if child is None:
                return
            if self._feed is not None and self._feed.finished() is None and child.alive:
                self._feed.command("abort", {})
                self._feed.wait(5.0)
            child.stop()

    def status(self) -> ClusterStatus:
        """What the cluster is, asked now."""
        child = self._child
        simulated = f"simulated: {self.network.words}"
        if child is None:
            return ClusterStatus(self.name, self.ranks, self.launcher, "down", simulated, note="start it: cluster.start()")
        if not child.alive:
            return ClusterStatus(
                self.name, self.ranks, self.launcher, "damaged", simulated, note="its process is gone; start a fresh one: cluster.start()"
            )
        states = self._feed.beacons() if self._feed is not None and self._feed.finished() is None else {}
        roles = list(self._job.strategy.roles(self.ranks)) if self._job is not None and states else ["worker"] * self.ranks
        rows = [
            RankStatus(rank, socket.gethostname(), child.pid, "virtual", role=roles[rank], transport="simulated", state=_word(states.get(rank)))
            for rank in range(self.ranks)
        ]
        return ClusterStatus(self.name, self.ranks, self.launcher, "up", simulated, rows)

    def train(self, job: Job) -> Run:
        """Start a run of `job` on all ranks, and the cluster if it was not started yet; returns at once.

        ClusterBusy while a run is on; ValueError if the job does not fit the ranks; ClusterGone for a cluster that was stopped or is damaged.
        """
        from workbench.cluster.worldfeed import WorldFeed
        from workbench.runs.run import Run

        if not isinstance(job, Job):
            raise ValueError(f"train(job) takes a Job, got {type(job).__name__}; Job.load(path) reads one from a file")
        with self._lock:
            job.check(self.ranks)
            check_simulated(job.strategy, "virtual ranks")
            if self._feed is not None and self._feed.finished() is None:
                name = self._feed.folder.name
                raise ClusterBusy(f"the run {name} is on (it is cluster.run); wait for it, run.wait(), or end it, run.stop(), before the next one")
            if not self._begun or (self._child is not None and self._feed is not None and self._feed.killed):
                self.start()
            child = self._child
            if child is None or not child.alive:
                state = self.status()
                raise ClusterGone(f"the cluster {self.name!r} is {state.state}; {state.note}")
            directory = os.getcwd()
            folder = create_run_folder(self.folder.absolute(), label_of(job))
            described = {**job.to_json(), "modules": job.modules(directory)}
            write_json(folder / "job.json", described)
            write_json(folder / "cluster.json", self._facts(child, directory))
            self._job = job
            self._feed = WorldFeed(child, folder, self.ranks)
            self._run = Run(folder, self._feed)
            child.tell(
                "begin",
                run=str(folder),
                job=described,
                directory=directory,
                ranks=self.ranks,
                network=self.network,
                device=self.device,
                pace=self.pace,
            )
            return self._run

    @property
    def run(self) -> Run | None:
        """The run that is on, else the last one; None before the first."""
        return self._run

    def _facts(self, child: Child, directory: str) -> dict[str, Any]:
        told = {"host": child.hello["host"], "pid": child.pid, "device": "virtual", "transport": "simulated"}
        facts = cluster_facts(self.name, self.launcher, [{"rank": rank, **told} for rank in range(self.ranks)], directory, self.network)
        return {**facts, "device": self.device.to_json(), "pace": self.pace}

    def _arrived(self, message: dict[str, Any]) -> None:
        """On the child's thread."""
        if self._feed is not None:
            self._feed.arrived(message)

    def _lost(self, why: str) -> None:
        """On the child's thread."""
        if self._feed is not None:
            self._feed.lost(why)


def _word(beacon: dict[str, Any] | None) -> str:
    if beacon is None:
        return "idle"
    return str(beacon["state"]) if beacon["answered"] else "no answer"
