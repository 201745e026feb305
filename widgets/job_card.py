"""The cards in which a job is put together: what is trained on what, and how the ranks exchange what they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import ipywidgets

from workbench.data import DATA
from workbench.job import Job
from workbench.models import MODELS
from workbench.options import options_of

from .buttons import toggle
from .form import Form, Named

FIRST: Final = ("model", "data", "epochs", "batch_size", "learning_rate", "seed")
"""What stands in the card; what a job has beside it opens below "more"."""


class JobCards(ipywidgets.VBox):
    """Two cards over one form of a `Job`."""

    def __init__(self, job: Job) -> None:
        described = {option.name: option for option in options_of(Job)}
        own = {
            "model": Named(described["model"], described["model_options"], MODELS),
            "data": Named(described["data"], described["data_options"], DATA),
        }
        self.form = Form(Job, job, own, omit=("model_options", "data_options"))
        rest = [name for name in self.form.fields if name not in (*FIRST, "strategy")]
        self._more = ipywidgets.VBox(self.form.rows(*rest), layout={"display": "none"})
        self._more_button = toggle("more", ", ".join(name.replace("_", " ") for name in rest), self._open)
        self._help_button = toggle("explain", "say below each field what it is for", self.form.explain)
        links = ipywidgets.HBox([self._more_button, self._help_button]).add_class("workbench-links")
        what = ipywidgets.VBox([_title("Job"), *self.form.rows(*FIRST), self._more, links]).add_class("workbench-card")
        how = ipywidgets.VBox([_title("Strategy"), *self.form.rows("strategy"), self.form.problem]).add_class("workbench-card")
        super().__init__([what, how])

    def job(self) -> Job:
        """The job as it stands; ValueError in words where it is none."""
        job: Job = self.form.value()
        return job

    def fits(self, ranks: Callable[[], int]) -> None:
        """Check from now on also whether the job fits that many ranks."""
        self.form.also = lambda job: job.check(ranks())
        self.form.check()

    def _open(self, on: bool) -> None:
        self._more.layout.display = None if on else "none"
        self._more_button.description = "less" if on else "more"


def _title(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f'<div class="workbench-title">{text}</div>')
