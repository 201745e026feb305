"""The side of the bench that shows a run: buttons, progress, a light per rank and the live plots."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Final

import ipywidgets
from bokeh.core.property.vectorization import Field

from workbench.plots import Plot, plots_of
from workbench.store import Rows

from . import words
from .buttons import button
from .comms import answer_anywhere
from .lights import Light, Lights
from .view import BokehView

HEIGHT: Final = 220
"""Of a plot in the panel, in pixels."""
PER_ROW: Final = 5
"""Entries of a legend side by side."""


class RunPanel(ipywidgets.VBox):
    """Shows what it is given; its buttons only call back, by the name of the command."""

    def __init__(self, ranks: int, command: Callable[[str], None]) -> None:
        self.train = button("Train", "sign-train", "train the job with this cluster", lambda: command("train"))
        self.pause = button("Pause", "sign-pause", "hold all ranks before the same step", lambda: command("pause"))
        self.resume = button("Resume", "sign-resume", "go on", lambda: command("resume"))
        self.stop = button("Stop", "sign-stop", "end the run at the next step; what it has recorded is kept", lambda: command("stop"))
        self.rate = answer_anywhere(
            ipywidgets.FloatText(value=0.1, step=0.01, description="rate", tooltip="learning rate from now on", layout={"width": "118px"})
        )
        self.rate.style.description_width = "32px"
        self.apply = button("Apply", "", "change the learning rate of the run, at the same step on every rank", lambda: command("rate"))
        self.status = ipywidgets.HTML().add_class("workbench-status")
        self.numbers = ipywidgets.HTML()
        self.lights = Lights()
        self._rate_shown = self.rate.value
        self.plots: dict[str, Plot] = {}
        self.view = BokehView(self._new_plots(ranks))
        live = ipywidgets.HBox([self.rate, self.apply]).add_class("workbench-rate")
        buttons = ipywidgets.HBox([self.train, self.pause, self.resume, self.stop, live]).add_class("workbench-buttons")
        super().__init__([buttons, self.status, self.numbers, self.lights, self.view])
        self.add_class("workbench-right")

    def _new_plots(self, ranks: int, lockstep: bool = True) -> list[Any]:
        self.plots = plots_of(ranks, lockstep)
        for plot in self.plots.values():
            _make_compact(plot.root, ranks)
        self._name_ranks_once()
        return [plot.root for plot in self.plots.values()]

    def _name_ranks_once(self) -> None:
        """The colours of the ranks are the same in all plots, so the legend of the first names them for all."""
        for plot in list(self.plots.values())[1:]:
            for legend in plot.root.legend:
                if any(isinstance(item.label, Field) for item in legend.items):
                    legend.items = [item for item in legend.items if not isinstance(item.label, Field)]

    def clear(self, ranks: int, lockstep: bool = True) -> None:
        """New, empty plots: another run is shown from now on, with so many workers, which share their steps or not."""
        with self.view.lock:
            self.view.show(self._new_plots(ranks, lockstep))

    def draw(self, steps: Rows, validation: Rows, traffic: Rows) -> None:
        """Give the plots new rows and send what that changes, as one message."""
        with self.view.lock:
            if len(steps) or len(validation) or len(traffic):
                for plot in self.plots.values():
                    plot.update(steps, validation, traffic)
                self._name_ranks_once()
            self.view.flush()

    def enable(self, status: str, *, train: bool, steer: bool) -> None:
        """Only what makes sense in a run's status can be pressed; a run that is stopping can still be ended at once."""
        moving = status in ("running", "paused")
        sense = {
            self.train: train,
            self.pause: steer and status == "running",
            self.resume: steer and status == "paused",
            self.stop: steer and (moving or status == "stopping"),
            self.rate: steer and moving,
            self.apply: steer and moving,
        }
        for widget, on in sense.items():
            widget.disabled = not on
        self.train.button_style = "primary" if train else ""
        self.stop.description = "Abort" if status == "stopping" else "Stop"
        self.stop.button_style = "danger" if status == "stopping" else ""

    def show_rate(self, rate: float) -> None:
        """The learning rate in force, when it is another one than before; what a person is typing stays."""
        if rate != self._rate_shown:
            self._rate_shown = self.rate.value = rate

    def say(self, text: str, error: bool = False) -> None:
        """One line of what is going on, or of what went wrong."""
        shown = f'<span class="workbench-bad" role="alert"><b>✕</b> {html.escape(text)}</span>' if error else html.escape(text)
        self.status.value = f'<div role="status" aria-live="polite">{shown}</div>'

    def show_numbers(self, done: float, label: str, tiles: Sequence[tuple[str, str]]) -> None:
        """The progress bar and the numbers below it."""
        self.numbers.value = words.bar(done, label) + words.tiles(tiles)

    def show_lights(self, lights: Sequence[Light]) -> None:
        """A light per rank."""
        self.lights.show(lights)


def _make_compact(root: Any, ranks: int) -> None:
    """Fit a figure into the panel."""
    root.height = HEIGHT
    root.toolbar.autohide = True
    for legend in root.legend:
        legend.margin, legend.glyph_width = 0, 14
        if ranks >= PER_ROW:
            legend.ncols = PER_ROW
