"""A run: the live handle of one execution of a job, or what is left of one in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

import pandas as pd

from workbench.errors import RankFailed, RunFolderDamaged, WorkbenchError
from workbench.job import CHANGEABLE, Job
from workbench.options import unknown_name
from workbench.runs import figures, frame
from workbench.runs.cache import News
from workbench.runs.ending import ending_of, is_paused, last_change
from workbench.runs.feed import Feed, FolderFeed
from workbench.runs.folders import run_folder
from workbench.runs.records import Records
from workbench.runs.strategy import is_lockstep, strategy_in
from workbench.store import Rows, read_events, read_mapping

if TYPE_CHECKING:
    from torch import nn


@final
class Run:
    """One execution of a job. With a `feed` it is live; without one it is what the folder of a run that is over holds.

    `train` of a cluster makes it; `Run.open(folder)` reads one that is over or belongs to another process. Steering
    returns at once; the ranks take a command in at a step that they agree on. Thread-safe.
    """

    def __init__(self, folder: str | Path, feed: Feed | None = None) -> None:
        self.folder = Path(folder)
        self._feed = feed
        self._asked_to_stop = False
        self._job: dict[str, Any] | None = None
        self._records = Records(self.folder, feed)
        self._at_the_end: figures.Progress | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The run of a folder: over, or watched while another process steers it. RunFolderDamaged; ValueError if it is none.

        How it ended is told as `workbench.runs.ending` says; a run whose end nobody has seen, and whose processes are
        gone, is `failed`.
        """
        folder = run_folder(folder)
        if ending_of(folder, read_events(folder), last_change(folder)) is not None:
            return cls(folder)
        feed = FolderFeed(folder)
        run = cls(folder, feed)
        feed.start()
        return run

    def __repr__(self) -> str:
        return f"<Run {self.folder.name}: {self.status}>"

    @property
    def status(self) -> str:
        """How the run stands: starting, running, paused, stopping, done, failed or stopped."""
        if self._records.ended is not None:
            return str(self._records.ended["status"])
        events = self._records.cache.events()
        if self._asked_to_stop or any(event["kind"] in ("stop", "abort") for event in events):
            return "stopping"
        if is_paused(events):
            return "paused"
        begun = any(event["kind"] == "start" for event in events) or len(self._records.newest("steps"))
        return "running" if begun else "starting"

    @property
    def feed(self) -> Feed | None:
        """What brings the records here; None of a run that is over and was opened from its folder."""
        return self._feed

    @property
    def error(self) -> dict[str, Any] | None:
        """Of a failed run: rank, host, device, step, where and traceback of the rank that failed first."""
        return (self._records.ended or {}).get("error")

    @property
    def job(self) -> dict[str, Any]:
        """The job as its folder has it: plain JSON. RunFolderDamaged."""
        if self._job is None:
            path = self.folder / "job.json"
            self._job = read_mapping(path, whole=("epochs", "steps")) if path.exists() else {}
            if not isinstance(self._job.get("strategy", {}), dict):
                self._job = None
                raise RunFolderDamaged(f"{path} is damaged: 'strategy' must be a JSON object")
        return self._job

    @property
    def damage(self) -> list[str]:
        """What of the folder could not be read and was left out, a line each; whoever reads the records is warned of it once."""
        return self._records.damage

    # what it shows

    def progress(self) -> figures.Progress:
        """Where the run is: step, epoch, loss, samples per second, share of time exchanging; printed, one line.

        Rates are those of the last seconds; of a run that is over, those of all of it, as in the summary.
        """
        if self._at_the_end is None:
            over = self._records.ended is not None
            steps = self._records.whole("steps") if over else self._records.newest("steps")
            told = figures.progress(self.status, self.job, self._records.cache.events(), steps, self._records.newest("validation"), over)
            if not over:
                return told
            self._at_the_end = told  # views ask again and again, and nothing comes any more
        return figures.Progress(self._at_the_end)

    def frame(self) -> pd.DataFrame:
        """One row per worker and step so far; what the columns mean is said in workbench.telemetry.COLUMNS."""
        return frame.steps_frame(self.table("steps"))

    def validation(self) -> pd.DataFrame:
        """One row per validation so far: rank -1 is the answer of all ranks, accuracy a share from 0 to 1."""
        return frame.validation_frame(self.table("validation"))

    def events(self) -> pd.DataFrame:
        """One row per event so far."""
        return frame.events_frame(self._records.cache.events())

    def waiting(self) -> pd.DataFrame:
        """Of the exchanges that were sampled: how long each rank waited for the last to come, and how long bytes moved."""
        return frame.waiting_frame(self.table("spans"))

    def drift(self) -> pd.DataFrame:
        """Of the steps that were sampled: how far each worker's parameters are from the mean, and the error of that number."""
        return frame.drift_frame(self.table("steps"), is_lockstep(self.job))

    def traffic(self) -> pd.DataFrame:
        """Who talked to whom: bytes and messages that each rank has sent to each other one, one row per pair."""
        return frame.traffic_frame(self.table("traffic"))

    def server(self) -> pd.DataFrame:
        """One row per update that a server has applied: whose it was, how stale, how long it took. Empty without servers."""
        return frame.server_frame(self.table("server"))

    def summary(self) -> figures.Figures:
        """The figures of the run so far; what each means is said in workbench.runs.figures.FIGURES."""
        steps, validation, records = self.table("steps"), self.table("validation"), self._records
        server, traffic, lost = self.table("server"), self.table("traffic"), records.lost(steps)
        told = figures.summary(self.status, self.job, records.cache.events(), steps, validation, lost, str(self.folder), server, traffic)
        told["damage"] = "; ".join(self.damage) or "none"
        return told

    def report(self, path: str | Path | None = None) -> Path:
        """Write one HTML file that needs nothing else (plots included); its path. Of a folder, the run's by default, it is report.html."""
        from workbench.runs.page import page_path
        from workbench.runs.report import write_report

        return write_report(self, page_path(path if path is not None else self.folder, "report.html"))

    def model(self, which: str = "final") -> nn.Module:
        """The trained model on the CPU: "final", "centre", or "rank-00003" for that worker's own. ValueError if it was not kept.

        Your own code is found where the run was started; WorkbenchError when it has changed since.
        """
        from workbench.runs.trained import trained_model

        return trained_model(self.folder, which)

    # for views

    def rows(self, table: str = "steps") -> Rows:
        """The newest rows of a table (n,), as many as are kept in memory."""
        return self._records.held(table)

    def table(self, table: str) -> Rows:
        """All rows of a table so far (n,), in the order of the steps within a rank; those that left the memory are read from the disk."""
        return self._records.whole(table)

    def since(self, marker: int = 0) -> News:
        """What has come since the marker that an earlier call returned (0: everything): rows by table, and events.

        `whole` is False when a view was away so long that rows in between left the memory; it begins again at 0.
        """
        return self._records.since(marker)

    def observe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Have `callback("rows" | "events" | "status")` called when something has come, on the feed's thread: be quick. Returns what ends it."""
        return self._records.observe(callback)

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> what it does now: state, operation, since_seconds, step, answered."""
        return self._feed.beacons() if self._feed is not None and self._records.ended is None else {}

    # steering

    def wait(self, timeout: float | None = None) -> Self:
        """Until the run is over; the run. RankFailed if it failed, TimeoutError after `timeout` seconds. Ctrl-C ends only the waiting."""
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        # in slices, so that an interrupt is heard at once everywhere
        while not self._records.over.wait(max(0.0, min(0.1, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self.folder.name} is still {self.status} after {timeout:g} s; it goes on")
            if self._records.closed.is_set():
                raise WorkbenchError(f"{self.folder.name} is not followed any more: this handle was closed")
        if self.status == "failed":
            error = self.error or {}
            if int(error.get("rank", -1)) < 0:
                raise WorkbenchError(f"{self.folder.name} failed: {error.get('where', 'nobody told why')}")
            told = {name: str(error.get(name, "")) for name in ("host", "device", "where", "traceback")}
            raise RankFailed(rank=int(error["rank"]), step=int(error.get("step") or 0), **told)
        return self

    def pause(self) -> None:
        """Have all ranks hold: before the same step where they are in lockstep."""
        self._command("pause")

    def resume(self) -> None:
        """Have all ranks go on after a pause."""
        self._command("resume")

    def step(self, count: int = 1) -> None:
        """Do `count` steps, then pause (again)."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"step({count!r}): count must be a whole number of at least 1, got {count!r}")
        self._command("step", count=count)

    def change(self, **changes: Any) -> None:
        """Change learning_rate, momentum or weight_decay from the step on that the ranks agree on.

        ValueError for what cannot be changed, and for what the strategy of this run has an option of its own for.
        """
        if not changes:
            raise ValueError(f"change() needs something to change: {', '.join(CHANGEABLE)}")
        for name in changes:
            if name not in CHANGEABLE:
                raise ValueError(unknown_name("option to change", name, CHANGEABLE, of="a run that goes on"))
        try:
            checked = Job().replace(**changes)
        except ValueError as error:
            raise ValueError(str(error).replace("Job(", "change(", 1)) from None
        self._refuse_unused(changes)
        self._command("change", **{name: getattr(checked, name) for name in changes})

    def stop(self) -> None:
        """End the run at the next step; the model and the records are kept. Of a run that is over: nothing."""
        self._end("stop")

    def abort(self) -> None:
        """End the run at once, wherever the ranks are; the records are kept, the model is not. Of a run that is over: nothing."""
        self._end("abort")

    def close(self) -> None:
        """Follow the run no longer; it goes on."""
        self._records.close()
        if isinstance(self._feed, FolderFeed):
            self._feed.close()

    def _refuse_unused(self, changes: dict[str, Any]) -> None:
        """ValueError for a field of the job that the strategy has an option of its own for; of one that cannot be read nothing is known."""
        with suppress(RunFolderDamaged):
            strategy = strategy_in(self.job)
            for name in changes:
                if strategy is not None and name in strategy.own:
                    kind = f"{type(strategy).__name__}({name}={getattr(strategy, name)})"
                    other = ", ".join(each for each in CHANGEABLE if each not in strategy.own)
                    raise ValueError(
                        f"change({name}={changes[name]!r}): {name} cannot be changed in this run, where that of {kind} stands in its place "
                        f"and stays as it is; what can be: {other}"
                    )

    def _end(self, verb: str) -> None:
        if self._over():
            return
        try:
            self._command(verb)
        except WorkbenchError:
            if not self._over():  # it has ended by itself in between
                raise
        else:
            self._asked_to_stop = True
            self._records.tell("status")

    def _command(self, verb: str, **options: Any) -> None:
        if self._feed is None or self._over():
            raise WorkbenchError(f"cannot {verb} {self.folder.name}: it is over ({self.status})")
        self._feed.command(verb, options)

    def _over(self) -> bool:
        return self._records.ended is not None or (self._feed is not None and self._feed.finished() is not None)
