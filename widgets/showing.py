"""The bench's side that shows: what cluster and run are is read and put into the cards, tick by tick."""

from __future__ import annotations

import time
from typing import Any, Final, final

from .cluster_card import ClusterCard
from .commands import Commands
from .job_card import JobCards
from .lanes import Lane
from .lights import Light
from .publisher import IDLE, PERIODS
from .reading import ENDED, Look, Reading
from .run_panel import RunPanel

REFRESH: Final = 0.5
"""Seconds between two looks at what need not move with the plots: numbers, lights, buttons, words."""
LOOK: Final = 1.0
"""Seconds between two questions to the cluster: is there a run that someone else started?"""
SURVEY: Final = 5.0
"""Seconds between two questions to the cluster about its ranks."""


@final
class Showing:
    """Keeps the cards up to date. Only the publisher's thread writes to them."""

    def __init__(self, cluster: Any, commands: Commands, cluster_card: ClusterCard, job_cards: JobCards, run_panel: RunPanel) -> None:
        self.cluster, self._commands = cluster, commands
        self._cluster_card, self._job_cards, self._run_panel = cluster_card, job_cards, run_panel
        self.run: Any = None
        """The run that is shown."""
        self.reading: Reading | None = None
        self._status: Any = None
        self._asking = Lane("look", lambda _words, _failure: None)
        self._refresh_at = self._look_at = self._survey_at = 0.0

    def tick(self) -> float:
        """Show what has changed; seconds until the next tick."""
        now, audience = time.monotonic(), self._run_panel.view.audience
        self._ask(now, LOOK if audience != "nobody" else SURVEY)
        run, reading = self.run, self.reading
        if run is not None and (reading is None or reading.run is not run):
            reading = self.reading = Reading(run, self.ranks())
            self._run_panel.clear(reading.workers, reading.lockstep)
            self._refresh_at = 0.0
        if reading is not None and audience != "nobody":
            self._draw(reading)
        if now >= self._refresh_at or (reading is not None and reading.changed()):
            self._refresh_at = now + REFRESH
            self._refresh()
        moving = reading is not None and reading.status not in ENDED
        return PERIODS[audience] if moving or audience == "nobody" else IDLE

    def failed(self, error: Exception) -> None:
        """A tick failed: say so."""
        self._run_panel.say(f"the panel could not be brought up to date: {type(error).__name__}: {error}", error=True)

    def hurry(self, ask: bool = False) -> None:
        """Have the next tick look at everything; with `ask` also at the cluster."""
        self._refresh_at = 0.0
        if ask:
            self._look_at = self._survey_at = 0.0

    def find_run(self) -> None:
        """Ask the cluster for the run that is on, or was last. May take as long as a rank that hangs lets it."""
        before, run = self.run, self.cluster.run
        if run is not None and self.run is before:  # a run that was begun meanwhile is newer
            self.run = run

    def close(self) -> None:
        """End the thread that asks."""
        self._asking.close()

    def ranks(self) -> int:
        """How many ranks the cluster has; 1 while that is not known."""
        return int(self.cluster.ranks or 1)

    def _draw(self, reading: Reading) -> None:
        """Draw what has come since the last time; who was away gets what has come meanwhile."""
        tables, anew = reading.fresh()
        if anew:
            self._run_panel.clear(reading.workers, reading.lockstep)
        self._run_panel.draw(*tables)

    def _ask(self, now: float, every: float) -> None:
        """Have the cluster asked, on a thread of its own: a rank that hangs must not hold up the panel."""
        if self._asking.busy or self._commands.cluster.busy:
            return
        if now >= self._survey_at:
            self._survey_at = now + SURVEY
            self._asking.put("asking the ranks", self._survey)
        elif now >= self._look_at:
            self._look_at = now + every
            self._asking.put("asking for a run", self.find_run)

    def _survey(self) -> None:
        self._status = self.cluster.status()
        self.find_run()

    def _refresh(self) -> None:
        look = self.reading.look() if self.reading is not None else None
        training = look is not None and look.status not in ENDED
        busy, steering = self._commands.cluster.busy, self._commands.run.busy
        up = self._status is not None and self._status.attached
        state = self._commands.cluster.doing or ("not asked yet" if self._status is None else self._status.state)
        self._cluster_card.show(self.cluster.name, self.ranks(), state, self._status, up=up, busy=busy, training=training)
        wrong = self._job_cards.form.wrong
        status = look.status if look is not None else ""
        self._run_panel.enable(status, train=up and not busy and not training and not wrong, steer=training and not steering)
        self._say(look, wrong, up)
        if look is not None and self.reading is not None:
            self._run_panel.show_numbers(look.done, look.title, look.tiles)
            self._run_panel.show_rate(self.reading.rate)
        self._run_panel.show_lights(look.lights if look is not None and (up or training) else self._idle_lights(up))

    def _say(self, look: Look | None, wrong: str, up: bool) -> None:
        if doing := self._commands.words():
            self._run_panel.say(doing)
        elif self._commands.error:
            self._run_panel.say(self._commands.error, error=True)
        elif look is not None and (up or look.status in ENDED):
            self._run_panel.say(look.sentence, error=look.status == "failed")
        elif wrong:
            self._run_panel.say("Train is off until the form is right")
        else:
            self._run_panel.say("ready: press Train" if up else "start the cluster to begin")

    def _idle_lights(self, up: bool) -> list[Light]:
        """The lights before the first run: of the cluster alone."""
        missing = {row.rank for row in self._status.rows if row.state == "missing"} if up else set()
        state = "ready" if up else "starting" if self._commands.cluster.busy else "off"
        return [Light(rank, "failed" if rank in missing else state, "gone" if rank in missing else "") for rank in range(self.ranks())]
