"""The ranks of a cluster and the connection to them: launched, attached, ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, final

import psutil

from workbench.channel.launch import MpiProfile, find_mpi
from workbench.channel.messages import CONTROLLER
from workbench.channel.processes import Processes
from workbench.channel.reaper import unlink
from workbench.cluster.trouble import explain
from workbench.errors import ClusterNotStarted
from workbench.training.devices import GPUS, Gpu

if TYPE_CHECKING:
    from workbench.channel.link import Link


@final
class Engines:
    """The processes of the cluster `name`, and the link to its engines while there is one."""

    def __init__(self, name: str) -> None:
        self.processes = Processes(name)
        self.link: Link | None = None
        self.hello: dict[int, dict[str, Any]] = {}
        """Rank -> what it says of itself; of one that has not answered, empty words."""
        self.mpi: MpiProfile | None = None

    @property
    def up(self) -> bool:
        """Whether there is a link and the controller behind it lives."""
        return self.link is not None and self.link.open and self.processes.up()

    def attach(self, greeting: float = 20.0) -> bool:
        """Connect to the cluster if it is up; ranks have `greeting` seconds to say who they are."""
        if not self.processes.attach():
            return False
        self._connect()
        assert self.link is not None
        self._greet(self.link.ranks, greeting)
        return True

    def launch(self, ranks: int, gpus: list[Gpu], timeout: float) -> None:
        """Start a controller and `ranks` engines. ClusterNotStarted, with the end of a log, if they do not come; nothing is left then."""
        self.processes.stop()  # what a crashed cluster of this name has left
        self.mpi = find_mpi()
        try:
            self.processes.start_controller()
            self._connect()
            self._start(ranks, gpus, timeout)
        except BaseException:
            self.drop_link()
            self.processes.stop()
            raise

    def restart(self, ranks: int, gpus: list[Gpu], timeout: float) -> None:
        """End all engines and start fresh ones under the same controller; under a fresh one where some do not end.

        When it fails or is interrupted, nothing is left: half a set of ranks would disturb the next one.
        """
        assert self.link is not None
        self.mpi = self.mpi or find_mpi()
        try:
            self._end()
            self.processes.stop_engines()
            # an engine asks for its rank as its number, and gets another one while an old one has it
            self._gone(within=10.0)
            if not self.link.ranks:
                self._clear_memory()
                self._start(ranks, gpus, timeout)
                return
        except BaseException:
            self.stop(politely=False)
            raise
        self.stop(politely=False)
        self.launch(ranks, gpus, timeout)

    def stop(self, politely: bool = True) -> None:
        """End all processes, whatever they do, and remove their files. `politely`: engines are asked to end first."""
        if self.link is None:
            self.processes.attach()
        elif politely and self.processes.up():
            self._end()
        self.drop_link()
        self.processes.stop()
        self._clear_memory()
        self.hello = {}

    def drop_link(self) -> None:
        """Close the connection; the cluster stays as it is."""
        link, self.link = self.link, None
        if link is not None:
            link.close()

    def _connect(self) -> None:
        from workbench.channel.link import Link

        self.link = Link(self.processes.connection(), str(self.processes.profile_dir))

    def _start(self, ranks: int, gpus: list[Gpu], timeout: float) -> None:
        assert self.link is not None
        assert self.mpi is not None
        controller = psutil.Process(self.processes.controller_pid)
        environment = {
            GPUS: json.dumps([asdict(gpu) for gpu in gpus]),
            CONTROLLER: json.dumps([controller.pid, controller.create_time()]),
        }
        deadline = time.monotonic() + timeout
        self.processes.start_engines(ranks, self.mpi, environment)
        tick = 0
        while len(self.link.ranks) < ranks:
            tick += 1
            ended = tick % 10 == 0 and self.processes.engines_ended()
            if ended or time.monotonic() > deadline:
                what = "mpiexec ended" if ended else f"it took longer than {timeout:g} s"
                raise ClusterNotStarted(explain(f"{len(self.link.ranks)} of {ranks} came up, then {what}", self.processes.log_tail(), self.mpi))
            time.sleep(0.02)
        self.hello = {}
        self._greet(range(ranks), max(5.0, deadline - time.monotonic()))
        for engine, told in self.hello.items():
            if told.get("mpi") and (told["size"], told["rank"]) != (ranks, engine):
                raise ClusterNotStarted(
                    f"engine {engine} is rank {told['rank']} of {told['size']} instead of rank {engine} of {ranks}: "
                    f"{self.mpi.mpiexec} and the library that mpi4py loads ({told['mpi']}) do not belong together"
                )

    def _greet(self, ranks: Iterable[int], timeout: float) -> None:
        """Ask ranks who they are, until all have said so; one that hangs may not say it."""
        assert self.link is not None
        wanted = list(ranks)
        deadline = time.monotonic() + min(timeout, 20.0)
        while missing := [rank for rank in wanted if rank not in self.hello and rank in self.link.ranks]:
            for rank, reply in self.link.ask("hello", missing, timeout=2.0).items():
                if reply is not None and reply.content["status"] == "ok":
                    self.hello[rank] = reply.content
            if time.monotonic() > deadline:
                break

    def _end(self) -> None:
        """Ask the engines to end; those that hang are killed through their nannies."""
        assert self.link is not None
        answers = self.link.ask("state", timeout=0.7)
        whole = len(answers) == len(self.hello) and None not in answers.values()
        self.link.shut_down()
        # where a rank has died, the others wait for it in MPI's own end; one that does not answer will not end either
        if not self._gone(within=2.0 if whole else 0.2):
            self.link.signal("SIGKILL", self.link.ranks)
            self._gone(within=3.0)

    def _clear_memory(self) -> None:
        """Remove what killed ranks have left in shared memory."""
        unlink({file for told in self.hello.values() for file in told.get("memory", ())})

    def _gone(self, within: float) -> bool:
        assert self.link is not None
        deadline = time.monotonic() + within
        while self.link.ranks and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.link.ranks
