"""The bench: a cluster, a job and its run on one panel."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, final

import ipywidgets

from workbench.job import Job

from .cluster_card import ClusterCard
from .commands import Commands
from .job_card import JobCards
from .publisher import Publisher
from .reading import ENDED
from .run_panel import RunPanel
from .showing import Showing


@final
class Bench(ipywidgets.VBox):
    """A panel for a cluster: start it, put a job together, train, watch, steer.

    It holds no state of the training: two benches on one cluster show the same run, and what is done in Python
    (`cluster.train(job)`, `run.pause()`) is seen here as well. Every button has a method of its name that does the same
    and returns at once; `await bench.wait()` waits for the run without holding up the notebook.
    """

    def __init__(self, cluster: Any, job: Job | None = None) -> None:
        self.cluster = cluster
        self._closed = False
        self._commands = Commands(lambda: self._hurry(ask=True))
        self.cluster_card = ClusterCard(self.start, self.restart, self.shut_down)
        self.job_cards = JobCards(job or Job(epochs=5))
        self.run_panel = RunPanel(int(cluster.ranks or 1), self._pressed)
        self._showing = Showing(cluster, self._commands, self.cluster_card, self.job_cards, self.run_panel)
        self._publisher = Publisher(self._showing)
        left = ipywidgets.VBox([self.cluster_card, self.job_cards]).add_class("workbench-left")
        super().__init__([ipywidgets.HBox([left, self.run_panel]).add_class("workbench-columns")])
        self.add_class("workbench")
        self.job_cards.fits(self._showing.ranks)
        self.job_cards.form.watch(self._hurry)
        self.run_panel.view.opened = self._hurry
        self._publisher.start()

    @classmethod
    def attach(cls, name: str = "default", folder: str | Path = "runs") -> Self:
        """A bench for the cluster of this name that is up already. ClusterGone if none is."""
        from workbench.cluster.mpi import Cluster

        return cls(Cluster.attach(name, folder=folder))

    # what the buttons do

    def start(self) -> None:
        """Start the ranks, or attach to them if they are up."""
        self._commands.put(self._commands.cluster, f"starting {self._ranks()}", self._start)
        self._hurry()

    def restart(self) -> None:
        """End the processes of all ranks and start them anew."""
        self._commands.put(self._commands.cluster, f"restarting {self._ranks()}", self.cluster.restart)
        self._hurry()

    def shut_down(self) -> None:
        """End the processes of all ranks."""
        self._commands.put(self._commands.cluster, "shutting the cluster down", self.cluster.stop)
        self._hurry()

    def train(self, job: Job | None = None) -> None:
        """Train a job, by default the one in the form. ValueError in words if the form holds none."""
        chosen = self.job_cards.job() if job is None else job

        def begin() -> None:
            self._showing.run = self.cluster.train(chosen)

        self._commands.put(self._commands.cluster, "handing the job to the ranks", begin)
        self._hurry()

    def pause(self) -> None:
        """Hold all ranks before the same step."""
        self._steer("pausing", lambda run: run.pause())

    def resume(self) -> None:
        """Go on."""
        self._steer("going on", lambda run: run.resume())

    def stop(self) -> None:
        """End the run at the next step on which the ranks agree; what is recorded is kept."""
        self._steer("stopping", lambda run: run.stop())

    def abort(self) -> None:
        """End the run at once."""
        self._steer("ending the run at once", lambda run: run.abort())

    def change(self, **options: Any) -> None:
        """Change options of the run, at the same step on every rank: `bench.change(learning_rate=0.01)`."""
        self._steer("changing " + ", ".join(f"{name} to {value}" for name, value in options.items()), lambda run: run.change(**options))

    @property
    def run(self) -> Any:
        """The run that is shown: the one that is on, or the last one; None before the first."""
        return self._showing.run

    async def wait(self) -> Any:
        """Wait for what was asked of the bench and for the run, while the notebook stays free; returns the run.

        Raises what the run, or something that was asked for, failed with.
        """
        while self._commands.busy:
            await asyncio.sleep(0.05)
        if self._commands.failure is not None:
            raise self._commands.failure
        await asyncio.to_thread(self._showing.find_run)  # it may have been started in Python a moment ago
        run = self.run
        while run is not None and run.status not in ENDED:
            await asyncio.sleep(0.1)
        if run is not None:
            run.wait()
            self._hurry()
        return run

    def close(self) -> None:
        """End the panel. The cluster and the run go on."""
        if not self._closed:
            self._closed = True
            self._publisher.close()
            self._commands.close()
            self._showing.close()
            self.run_panel.view.close()
            super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The panel, and words and numbers for where no kernel runs."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = self._in_words()
        bundle["text/html"] = "".join(f"<p>{html.escape(line)}</p>" for line in self._in_words().splitlines())
        return bundle

    def _in_words(self) -> str:
        lines = [f"Bench of the cluster {self.cluster.name!r}, {self._ranks()}"]
        if self._showing.reading is not None:
            look = self._showing.reading.look()
            lines += [look.sentence, ", ".join(f"{name} {text}" for name, text in look.tiles)]
        return "\n".join(lines)

    def _pressed(self, button: str) -> None:
        """A button of the run's panel; what cannot be asked for is said there too."""
        try:
            if button == "rate":
                self.change(learning_rate=self.run_panel.rate.value)
            elif button == "stop" and self.run_panel.stop.description == "Abort":
                self.abort()
            else:
                {"train": self.train, "pause": self.pause, "resume": self.resume, "stop": self.stop}[button]()
        except ValueError as error:
            self._commands.error = str(error)
            self._hurry()

    def _start(self) -> None:
        self.cluster.start()
        self.job_cards.form.check()  # the number of ranks may be known only now

    def _steer(self, doing: str, act: Callable[[Any], object]) -> None:
        def steer() -> None:
            if self.run is None:
                raise ValueError("there is no run yet: train first")
            act(self.run)

        self._commands.put(self._commands.run, doing, steer)
        self._hurry()

    def _hurry(self, ask: bool = False) -> None:
        """Show at once what is different now."""
        self._showing.hurry(ask)
        self._publisher.wake()

    def _ranks(self) -> str:
        return "the cluster" if self.cluster.ranks is None else f"{self.cluster.ranks} rank{'s' * (self.cluster.ranks != 1)}"
