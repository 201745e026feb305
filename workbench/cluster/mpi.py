"""The notebook's side of a real cluster: MPI ranks that are started, attached, given jobs, stopped."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from workbench import __version__
from workbench.channel.guardian import Guardian
from workbench.channel.launch import cores
from workbench.cluster import answers, choices, registry
from workbench.cluster.engines import Engines
from workbench.cluster.facts import cluster_facts
from workbench.cluster.naming import label_of
from workbench.cluster.status import DETACHED, ClusterStatus, some_ranks
from workbench.collectives.simulated import check_simulated
from workbench.comm.network import Network
from workbench.errors import ClusterBusy, ClusterGone
from workbench.job import Job
from workbench.store import create_run_folder, write_json
from workbench.training import devices as gpus

if TYPE_CHECKING:
    from workbench.channel.client import EngineFeed
    from workbench.channel.link import Link
    from workbench.runs.run import Run

START_SECONDS: Final = 90.0


@final
class Cluster:
    """MPI ranks that stand ready behind a notebook.

    `ranks`: how many; None: those of the cluster of this name if it is up, else one per core and at least two.
    `devices`: "auto" (the GPUs of the host in turn, or processors), "cpu", or a list of GPUs. `name` tells clusters of one user apart.
    `network`: an emulated link (a Network or the name of a preset: "100M", "1G", "10G") for the runs of this object, whatever the ranks
    were started with; None: the one they were started with, if any. `folder`: where the folders of runs are made. In a `with` statement
    the cluster is stopped at the end, if this object started it, even when this process is killed; without one it outlives the process.
    """

    def __init__(
        self,
        ranks: int | None = None,
        launcher: str = "mpi",
        hosts: Sequence[str] | None = None,
        name: str = "default",
        devices: gpus.Devices = "auto",
        network: Network | str | None = None,
        folder: str | Path = "runs",
    ) -> None:
        choices.check(ranks, launcher, hosts, network)
        self.ranks, self.launcher, self.name, self.folder = ranks, launcher, registry.check_name(name), Path(folder)
        self.devices = gpus.check_devices(devices)
        self.network = None if network is None else Network.of(network)
        self._engines = Engines(name)
        self._run: Run | None = None
        self._feed: EngineFeed | None = None
        self._job: Job | None = None
        self._started = False
        self._begun = False  # somebody has called `start`, `stop` or `train`
        self._guarded = False
        self._guardian = Guardian(self._engines.processes.profile_dir, name)
        self._lock = threading.RLock()

    @classmethod
    def attach(cls, name: str = "default", folder: str | Path = "runs", network: Network | str | None = None) -> Self:
        """The cluster of this name, which must be up; `network`: as in `Cluster(...)`. ClusterGone if it is not."""
        record = registry.read(registry.check_name(name))
        states = {listed.name: listed.state for listed in registry.running()}
        if record is None or states.get(name) != "up":
            up = ", ".join(other for other, state in states.items() if state == "up" and other != name)
            why = {"up": "not started by the workbench", "starting": "being started", "left over": "left over from a crash"}.get(
                states.get(name, ""), ""
            )
            raise ClusterGone(f"the cluster {name!r} is {why}" if why else f"no cluster {name!r} is up (up: {up or 'none'})")
        cluster = cls(record.ranks, record.launcher, name=name, devices=record.devices, network=network, folder=folder)
        return cluster._start(START_SECONDS, launch=False)

    def __enter__(self) -> Self:
        self._guarded = True
        self.start()
        if self._started:
            self._guardian.watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._guarded = False
        if self._started:
            self.stop()
        else:
            self.detach()

    def __repr__(self) -> str:
        network = f", network={self.network}" if self.network is not None else ""
        return f"Cluster(ranks={self.ranks}, name={self.name!r}, devices={self.devices!r}{network})"

    def start(self, timeout: float = START_SECONDS) -> Self:
        """Start the cluster, or attach to it if it is up; returns itself. A cluster that is up already stays as it is;
        ranks that are missing from it are replaced, with all others, unless a run is on.

        ValueError if one of this name is up that differs; ClusterNotStarted, with the end of the engines' log, if they
        do not come within `timeout` seconds.
        """
        return self._start(timeout)

    def restart(self, timeout: float = START_SECONDS) -> Self:
        """End all engines, whatever they do, and start fresh ones: the way on after a rank has died. Returns itself."""
        with self._lock:
            if not self._engines.up:
                return self.start(timeout)
            assert self.ranks is not None
            with self._engines.processes.lock(timeout):
                self._end_run()
                self._restart(timeout)
            return self

    def stop(self) -> None:
        """End the run if one is on (its records are kept) and all processes of the cluster. Nothing happens if it is down."""
        with self._lock, self._engines.processes.lock(60):
            if self._engines.up:
                self._end_run()
            self._engines.stop()
            registry.forget(self.name)
            self._started, self._begun = False, True
            self._guardian.dismiss()

    def detach(self) -> None:
        """Let go of the cluster, which stays up; `start` attaches again."""
        with self._lock:
            self._engines.drop_link()

    def status(self) -> ClusterStatus:
        """What the cluster is, asked of its ranks now."""
        link, hello = self._engines.link, self._engines.hello
        if link is None or not self._engines.up or self.ranks is None:
            return self._status_from_afar()
        states, there = link.ask("state", timeout=2.0), link.ranks
        roles = answers.roles(states, self.ranks, self._run and self._run.folder, self._job)
        rows = answers.rows(hello, states, there, roles)
        missing = [row.rank for row in rows if row.state == "missing"]
        spoiled = answers.spoiled(states)
        wrong = f"{some_ranks(missing)} missing" if missing else f"no run can begin any more: {spoiled}" if spoiled else ""
        note = f"{wrong}; start fresh ranks: cluster.restart()" if wrong else ""
        mpi = next((str(told["mpi"]) for told in hello.values()), "")
        record = registry.read(self.name)
        apart, state = record is not None and record.network != self.network, "damaged" if wrong else "up"
        return ClusterStatus(self.name, self.ranks, self.launcher, state, mpi, rows, note, self.network, apart)

    def train(self, job: Job) -> Run:
        """Start a run of `job` on all ranks, and the cluster if it was not started yet; returns at once.

        ClusterBusy while a run is on; ValueError if the job does not fit the ranks; ClusterGone for a cluster that was stopped or is damaged.
        """
        if not isinstance(job, Job):
            raise ValueError(f"train(job) takes a Job, got {type(job).__name__}; Job.load(path) reads one from a file")
        with self._lock:
            if self.ranks is not None:
                job.check(self.ranks)
            if not self._begun:
                self.start()
            link = self._up()
            assert self.ranks is not None
            job.check(self.ranks)
            missing = [rank for rank in range(self.ranks) if rank not in link.ranks]
            if missing:
                raise ClusterGone(f"{some_ranks(missing)} missing from the cluster {self.name!r}; start fresh ranks: cluster.restart()")
            if spoiled := answers.spoiled(answers.free(link)):
                raise ClusterGone(f"no run can begin any more on the cluster {self.name!r}: {spoiled}; start fresh ranks: cluster.restart()")
            check_simulated(job.strategy, "an emulated link" if self.network is not None else "")
            choices.check_hosts(self.network, (str(told["host"]) for told in self._engines.hello.values()))
            directory = os.getcwd()
            folder = create_run_folder(self.folder.absolute(), label_of(job))
            described = {**job.to_json(), "modules": job.modules(directory)}
            write_json(folder / "job.json", described)
            write_json(folder / "cluster.json", cluster_facts(self.name, self.launcher, self._engines.hello.values(), directory, self.network))
            feed = self._feed_of(folder, link)
            try:
                feed.begin(described, directory, self.network)
            except ClusterBusy:  # another notebook was faster
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._job = job
            return self._take(folder, feed)

    @property
    def run(self) -> Run | None:
        """The run that is on, also one that another process has started; else the last one; None before the first."""
        with self._lock:
            link = self._engines.link
            if link is not None and link.open:
                reports = [reply.content for reply in link.ask("state", link.ranks[:1]).values() if reply is not None]
                told = reports[0].get("run") if reports else None
                job = answers.job_in(told) if told is not None and (self._run is None or str(self._run.folder) != told) else None
                if told is not None and job is not None:
                    feed = self._feed_of(Path(told), link)
                    feed.follow()
                    if reports[0].get("outcome") is not None:
                        feed.wait(2.0)
                    self._job = job
                    return self._take(Path(told), feed)
            return self._run

    def _feed_of(self, folder: Path, link: Link) -> EngineFeed:
        from workbench.channel.client import EngineFeed

        assert self.ranks is not None
        nobody = {"host": "", "device": ""}
        return EngineFeed(link, folder, {rank: self._engines.hello.get(rank, nobody) for rank in range(self.ranks)}, self._engines.processes.up)

    def _take(self, folder: Path, feed: EngineFeed) -> Run:
        from workbench.runs.run import Run

        self._feed, self._run = feed, Run(folder, feed)
        return self._run

    def _start(self, timeout: float, launch: bool = True) -> Self:
        """`launch`: start the cluster if it is not up, else ClusterGone."""
        with self._lock:
            self._begun = True
            engines = self._engines
            if engines.up and self._whole():
                return self
            with engines.processes.lock(timeout):
                if not engines.up:
                    engines.drop_link()
                    if not self._attach():
                        if not launch:
                            raise ClusterGone(f"the cluster {self.name!r} was stopped meanwhile")
                        self._launch(timeout)
                if launch and not self._whole() and not (engines.link and answers.busy(engines.link.ask("state", timeout=2.0))):
                    self._restart(timeout)
            return self

    def _attach(self) -> bool:
        """Connect to the cluster that is up, if it is not left over from a start that was killed."""
        record = registry.read(self.name)
        if not self._engines.processes.up() or registry.left_over(self._engines.processes, record):
            return False
        self.ranks = self.ranks or (record.ranks if record is not None else 1)
        choices.check_same(self.name, self._record(), record)
        self.network = self.network or (record and record.network)
        return self._engines.attach()

    def _launch(self, timeout: float) -> None:
        self.ranks = self.ranks or max(2, cores())
        chosen = gpus.choose(self.devices)
        if self._guarded:
            self._guardian.watch()  # this process may be killed while it starts them
        try:
            with registry.noted(self._record):
                self._engines.launch(self.ranks, chosen, timeout)
        except BaseException:
            self._guardian.dismiss()
            raise
        self._started = True

    def _restart(self, timeout: float) -> None:
        assert self.ranks is not None
        chosen = gpus.choose(self.devices)
        with registry.noted(self._record):
            self._engines.restart(self.ranks, chosen, timeout)

    def _whole(self) -> bool:
        return self._engines.link is not None and self.ranks is not None and set(range(self.ranks)) <= set(self._engines.link.ranks)

    def _record(self) -> registry.Record:
        assert self.ranks is not None
        devices = self.devices if isinstance(self.devices, str) else list(self.devices)
        mpi, host = self._engines.mpi.library if self._engines.mpi is not None else "", socket.gethostname()
        return registry.Record(self.name, self.ranks, self.launcher, devices, mpi, host, sys.executable, __version__, time.time(), self.network)

    def _up(self) -> Link:
        if self._engines.link is None:
            state = self._status_from_afar()
            raise ClusterGone(f"the cluster {self.name!r} is {state.state}; {state.note}")
        if not self._engines.up:
            raise ClusterGone(f"the controller of the cluster {self.name!r} is gone; start it again: cluster.start()")
        return self._engines.link

    def _status_from_afar(self) -> ClusterStatus:
        """What the cluster is, as far as can be seen without a connection."""
        record = registry.read(self.name)
        if record is not None and record.state == "up" and self._engines.processes.up():
            note, network = "attach to it: cluster.start()", self.network or record.network
            return ClusterStatus(self.name, record.ranks, record.launcher, DETACHED, record.mpi, [], note, network, record.network != network)
        return ClusterStatus(self.name, self.ranks, self.launcher, "down", note="start it: cluster.start()", network=self.network)

    def _end_run(self) -> None:
        """Let a run that is on write its records before its ranks are ended."""
        if self.run is not None and self._feed is not None:
            self._feed.end(patience=3.0)
