"""The bench: a cluster, a job and its run on one panel."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable
from typing import Any, Final, Self, final

import ipywidgets

from workbench.job import Job

from . import words
from .cluster_card import ClusterCard
from .job_card import JobCards
from .lanes import Lane
from .lights import Light
from .publisher import IDLE, PERIODS, Publisher
from .reading import ENDED, Look, Reading
from .run_panel import RunPanel

REFRESH: Final = 0.5
"""Seconds between two looks at what need not move with the plots: numbers, lights, buttons, words."""
LOOK: Final = 1.0
"""Seconds between two questions to the cluster: is there a run that someone else started?"""
SURVEY: Final = 5.0
"""Seconds between two questions to the cluster about its ranks."""


@final
class Bench(ipywidgets.VBox):
    """A panel for a cluster: start it, put a job together, train, watch, steer.

    It holds no state of the training: two benches on one cluster show the same run, and what is done in Python
    (`cluster.train(job)`, `run.pause()`) is seen here as well. Every button has a method of its name that does the same
    and returns at once; `await bench.wait()` waits for the run without holding up the notebook.
    """

    def __init__(self, cluster: Any, job: Job | None = None) -> None:
        self.cluster = cluster
        self._run: Any = None
        self._reading: Reading | None = None
        self._status: Any = None
        self._error = ""
        self._failure: Exception | None = None
        self._closed = False
        self._next = {"refresh": 0.0, "look": 0.0, "survey": 0.0}
        self._doing_since = 0.0
        self._cluster_lane = Lane("cluster", self._done)
        self._run_lane = Lane("run", self._done)
        self._look_lane = Lane("look", lambda _words, _failure: None)
        self.cluster_card = ClusterCard(self.start, self.restart, self.shut_down)
        self.job_cards = JobCards(job or Job(epochs=5))
        self.run_panel = RunPanel(self._ranks(), self._pressed)
        self._publisher = Publisher(self)
        left = ipywidgets.VBox([self.cluster_card, self.job_cards]).add_class("workbench-left")
        super().__init__([ipywidgets.HBox([left, self.run_panel]).add_class("workbench-columns")])
        self.add_class("workbench")
        self.job_cards.fits(self._ranks)
        self.job_cards.form.watch(self._hurry)
        self._publisher.start()

    @classmethod
    def attach(cls, name: str = "default", folder: str = "runs") -> Self:
        """A bench for the cluster of this name that is up already. ClusterGone if none is."""
        from workbench.cluster.mpi import Cluster

        return cls(Cluster.attach(name, folder=folder))

    # what the buttons do

    def start(self) -> None:
        """Start the ranks, or attach to them if they are up."""
        self._command(self._cluster_lane, f"starting {self._ranks_words()}", self.cluster.start)

    def restart(self) -> None:
        """End the processes of all ranks and start them anew."""
        self._command(self._cluster_lane, f"restarting {self._ranks_words()}", self.cluster.restart)

    def shut_down(self) -> None:
        """End the processes of all ranks."""
        self._command(self._cluster_lane, "shutting the cluster down", self.cluster.stop)

    def train(self, job: Job | None = None) -> None:
        """Train a job, by default the one in the form. ValueError in words if the form holds none."""
        chosen = self.job_cards.job() if job is None else job

        def begin() -> None:
            self._run = self.cluster.train(chosen)

        self._command(self._cluster_lane, "handing the job to the ranks", begin)

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
        return self._run

    async def wait(self) -> Any:
        """Wait for what was asked of the bench and for the run, while the notebook stays free; returns the run.

        Raises what the run or the last command failed with.
        """
        while self._cluster_lane.busy or self._run_lane.busy:
            await asyncio.sleep(0.05)
        if self._failure is not None:
            raise self._failure
        await asyncio.to_thread(self._look)  # it may have been started in Python a moment ago
        run = self._run
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
            for lane in (self._cluster_lane, self._run_lane, self._look_lane):
                lane.close()
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
        lines = [f"Bench of the cluster {self.cluster.name!r}, {self._ranks_words()}"]
        if self._reading is not None:
            look = self._reading.look()
            lines += [look.sentence, ", ".join(f"{name} {text}" for name, text in look.tiles)]
        return "\n".join(lines)

    # commands: callbacks only put them in a lane

    def _pressed(self, button: str) -> None:
        try:
            if button == "rate":
                self.change(learning_rate=self.run_panel.rate.value)
            elif button == "stop" and self.run_panel.stop.description == "Abort":
                self.abort()
            else:
                {"train": self.train, "pause": self.pause, "resume": self.resume, "stop": self.stop}[button]()
        except ValueError as error:
            self._error = str(error)
            self._hurry()

    def _steer(self, doing: str, act: Callable[[Any], object]) -> None:
        def steer() -> None:
            if self._run is None:
                raise ValueError("there is no run yet: train first")
            act(self._run)

        self._command(self._run_lane, doing, steer)

    def _command(self, lane: Lane, doing: str, act: Callable[[], object]) -> None:
        self._error, self._doing_since = "", time.monotonic()
        if not (self._cluster_lane.busy or self._run_lane.busy):
            self._failure = None
        lane.put(doing, lambda: (act(), None)[1])
        self._hurry()

    def _done(self, doing: str, failure: Exception | None) -> None:
        """On the lane's thread, after each command."""
        if failure is not None:
            self._error, self._failure = f"{doing} failed: {failure}" if not isinstance(failure, ValueError) else str(failure), failure
        elif doing.startswith(("starting", "restarting")):
            self.job_cards.form.check()  # the number of ranks may be known only now
        self._next["look"] = self._next["survey"] = 0.0
        self._hurry()

    def _hurry(self) -> None:
        """Show at once what is different now."""
        self._next["refresh"] = 0.0
        self._publisher.wake()

    # showing: only the publisher's thread comes here

    def tick(self) -> float:
        """Show what has changed; seconds until the next tick."""
        now = time.monotonic()
        self._ask(now)
        run = self._run
        if run is not None and (self._reading is None or self._reading.run is not run):
            self._reading = Reading(run, self._ranks())
            self.run_panel.clear(self._reading.ranks)
            self._next["refresh"] = 0.0
        reading = self._reading
        if reading is not None:
            steps, validation, anew = reading.fresh()
            if anew:
                self.run_panel.clear(reading.ranks)
            self.run_panel.draw(steps, validation)
        if now >= self._next["refresh"] or (reading is not None and reading.changed()):
            self._next["refresh"] = now + REFRESH
            self._refresh()
        audience = self.run_panel.view.audience
        moving = reading is not None and reading.status not in ENDED
        return PERIODS[audience] if moving or audience == "nobody" else IDLE

    def failed(self, error: Exception) -> None:
        """A tick failed: say so."""
        self.run_panel.say(f"the panel could not be brought up to date: {type(error).__name__}: {error}", error=True)

    def _ask(self, now: float) -> None:
        """Have the cluster asked, on a thread of its own: a rank that hangs must not hold up the panel."""
        if self._look_lane.busy or self._cluster_lane.busy:
            return
        if now >= self._next["survey"]:
            self._next["survey"] = now + SURVEY
            self._look_lane.put("asking the ranks", self._survey)
        elif now >= self._next["look"]:
            self._next["look"] = now + LOOK
            self._look_lane.put("asking for a run", self._look)

    def _survey(self) -> None:
        self._status = self.cluster.status()
        self._look()

    def _look(self) -> None:
        run = self.cluster.run
        if run is not None:
            self._run = run

    def _refresh(self) -> None:
        look = self._reading.look() if self._reading is not None else None
        training = look is not None and look.status not in ENDED
        busy, steering = self._cluster_lane.busy, self._run_lane.busy
        up = self._status is not None and self._status.state != "down"
        state = self._cluster_lane.doing or ("not asked yet" if self._status is None else self._status.state)
        self.cluster_card.show(self.cluster.name, self._ranks(), state, self._status, up=up, busy=busy, training=training)
        wrong = self.job_cards.form.wrong
        self.run_panel.enable(
            look.status if look is not None else "", train=up and not busy and not training and not wrong, steer=training and not steering
        )
        self._say(look, wrong, up)
        if look is not None and self._reading is not None:
            self.run_panel.show_numbers(look.done, look.title, look.tiles)
            self.run_panel.show_rate(self._reading.rate)
        self.run_panel.show_lights(look.lights if look is not None and (up or training) else self._idle_lights(up))

    def _say(self, look: Look | None, wrong: str, up: bool) -> None:
        doing = self._cluster_lane.doing or self._run_lane.doing
        if doing:
            self.run_panel.say(f"{doing} … {words.duration(time.monotonic() - self._doing_since)}")
        elif self._error:
            self.run_panel.say(self._error, error=True)
        elif look is not None and (up or look.status in ENDED):
            self.run_panel.say(look.sentence, error=look.status == "failed")
        elif wrong:
            self.run_panel.say("Train is off until the form is right")
        else:
            self.run_panel.say("ready: press Train" if up else "start the cluster to begin")

    def _idle_lights(self, up: bool) -> list[Light]:
        """The lights before the first run: of the cluster alone."""
        missing = {row.rank for row in self._status.rows if row.state == "missing"} if up else set()
        state = "ready" if up else "starting" if self._cluster_lane.busy else "off"
        return [Light(rank, "failed" if rank in missing else state, "gone" if rank in missing else "") for rank in range(self._ranks())]

    def _ranks(self) -> int:
        return int(self.cluster.ranks or 1)

    def _ranks_words(self) -> str:
        return "the cluster" if self.cluster.ranks is None else f"{self.cluster.ranks} rank{'s' * (self.cluster.ranks != 1)}"
