"""A finished run, told once more at its own pace: for classes without a cluster, and to measure live views."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import numpy.typing as npt

from workbench.channel.listeners import Listeners
from workbench.errors import WorkbenchError
from workbench.runs.ending import ending_of, last_change
from workbench.runs.feed import OnEvent, OnRows
from workbench.runs.folders import run_folder
from workbench.store import Rows, StreamReader, read_events, streams
from workbench.telemetry import PHASES, TABLES

if TYPE_CHECKING:
    from workbench.runs.run import Run

PUSH_SECONDS: Final = 0.05


def replay(folder: str | Path, pace: float = 1.0) -> Replay:
    """A feed that tells a finished run again, `pace` times as fast as it was; begin with `.start()`, or with `.run()`.

    ValueError if the folder holds no run, or `pace` is not above 0.
    """
    return Replay(Path(folder), pace)


@final
class Replay:
    """A feed whose ranks are a run's folder. Time begins with `start`; pause, resume, stop and abort are obeyed."""

    def __init__(self, folder: Path, pace: float = 1.0) -> None:
        run_folder(folder)
        if not pace > 0:
            raise ValueError(f"replay(pace={pace!r}): pace must be a number above 0, got {pace!r}")
        self.folder, self.pace = folder, pace
        self._tracks = _tracks(folder)
        self._events = sorted(read_events(folder), key=lambda event: float(event.get("seconds") or 0.0))
        self._ending = ending_of(folder, self._events, last_change(folder)) or {"status": "stopped", "steps": 0, "error": None}
        self._told = dict.fromkeys(self._tracks, 0)
        self._on_rows: Listeners[OnRows] = Listeners()
        self._on_event: Listeners[OnEvent] = Listeners()
        self._commands = 0
        self._paused = self._cut = False
        self._seconds = 0.0
        self._ended: dict[str, Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name=f"replay of {folder.name}", daemon=True)

    @property
    def seconds(self) -> float:
        """Time of the run that has been told so far."""
        return self._seconds

    def start(self) -> Replay:
        """Let time begin. Returns itself."""
        self._thread.start()
        return self

    def run(self) -> Run:
        """A live run of this replay, in a folder of its own that holds the job but, so far, no records; then time begins."""
        from workbench.runs.run import Run

        stage = Path(tempfile.mkdtemp(prefix=f"replay-{self.folder.name}-"))
        for name in ("job.json", "cluster.json"):
            if (self.folder / name).is_file():
                shutil.copy(self.folder / name, stage)
        run = Run(stage, self)
        self.start()
        return run

    # what a run needs (the Feed protocol)

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows told so far."""
        counts: dict[str, dict[str, int]] = {}
        for (source, table), index in self._told.items():
            counts.setdefault(source, {})[table] = self._tracks[source, table].first + index
        return counts

    def subscribe(self, callback: OnRows, /) -> Callable[[], None]:
        """Have rows handed over when their time has come."""
        return self._on_rows.add(callback)

    def subscribe_events(self, callback: OnEvent, /) -> Callable[[], None]:
        """Have events handed over when their time has come."""
        return self._on_event.add(callback)

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """Rows that have been told already, from `since` on."""
        track = self._tracks.get((source, table))
        if track is None:
            return since, np.zeros(0, TABLES[table])
        first = max(since, track.first)
        return first, track.rows[first - track.first : self._told[source, table]]

    def command(self, verb: str, options: dict[str, Any]) -> int:
        """Pause, resume, stop and abort concern the telling; WorkbenchError for what would have to change the past."""
        if verb not in ("pause", "resume", "stop", "abort"):
            raise WorkbenchError(f"cannot {verb} {self.folder.name}: it is a replay of a run that is over")
        if verb in ("pause", "resume"):
            self._paused = verb == "pause"
        else:
            self._cut = True
        self._commands += 1
        return self._commands

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> how far it is; nobody waits for anything."""
        steps: dict[int, int] = {}
        for (source, table), index in self._told.items():
            if table in ("steps", "server") and index:
                rows = self._tracks[source, table].rows[max(0, index - 4096) : index]
                for rank, step in zip(rows["rank"].tolist(), rows["step" if table == "steps" else "update"].tolist(), strict=True):
                    steps[rank] = step + 1
        state = "paused" if self._paused else "running"
        return {rank: {"state": state, "operation": None, "since_seconds": 0.0, "step": steps[rank], "answered": True} for rank in sorted(steps)}

    def finished(self) -> dict[str, Any] | None:
        """None while it is told; then how the run ended, or "stopped" if the telling was."""
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until all has been told; False after `timeout` seconds."""
        return self._over.wait(timeout)

    def _tell(self) -> None:
        events, last = list(self._events), time.monotonic()
        while not self._cut:
            time.sleep(PUSH_SECONDS)
            now = time.monotonic()
            self._seconds += 0.0 if self._paused else (now - last) * self.pace
            last = now
            while events and float(events[0].get("seconds") or 0.0) <= self._seconds:
                event = events.pop(0)
                for tell in self._on_event:
                    tell(event)
            left = [self._advance(key) for key in self._tracks]
            if not events and not any(left):
                break
        self._ended = {"status": "stopped", "steps": 0, "error": None} if self._cut else self._ending
        self._over.set()

    def _advance(self, key: tuple[str, str]) -> int:
        """Tell the rows of one stream that are due; how many are left."""
        track, index = self._tracks[key], self._told[key]
        due = int(np.searchsorted(track.seconds, self._seconds, side="right"))
        if due > index:
            self._told[key] = due
            for hand in self._on_rows:
                hand(*key, track.first + index, track.rows[index:due])
        return len(track.rows) - due


@final
class _Track:
    """The rows of one stream without a gap, from number `first` on, and when each was there: ascending seconds of the run."""

    def __init__(self, first: int, rows: Rows, seconds: npt.NDArray[np.float64]) -> None:
        self.first, self.rows, self.seconds = first, rows, np.maximum.accumulate(seconds) if len(seconds) else seconds


def _tracks(folder: Path) -> dict[tuple[str, str], _Track]:
    batches: dict[tuple[str, str], tuple[int, Rows]] = {}
    for source, table, path in streams(folder):
        read = StreamReader(path).read()
        if read:  # rows behind a gap have numbers of their own; told again, they follow each other
            batches[source, table] = read[0].first, np.concatenate([batch.rows for batch in read])
    ends: dict[tuple[int, int], float] = {}
    for (_, table), (_, rows) in batches.items():
        if table == "steps":
            ends.update(zip(zip(rows["rank"].tolist(), rows["step"].tolist(), strict=True), _ends(rows).tolist(), strict=True))
    length = max(ends.values(), default=0.0)
    return {key: _Track(first, rows, _when(key[1], rows, ends, length)) for key, (first, rows) in batches.items()}


def _ends(steps: Rows) -> npt.NDArray[np.float64]:
    seconds: npt.NDArray[np.float64] = steps["start_seconds"] + sum(steps[f"{phase}_seconds"].astype(float) for phase in PHASES)
    return seconds


def _when(table: str, rows: Rows, ends: dict[tuple[int, int], float], length: float) -> npt.NDArray[np.float64]:
    """When each row was there, in seconds since the start of its run."""
    match table:
        case "steps":
            return _ends(rows)
        case "spans":
            return rows["end_seconds"].astype(float)
        case "validation" | "server":
            return rows["seconds"].astype(float)
        case "traffic":
            return np.array([ends.get(key, length) for key in zip(rows["rank"].tolist(), rows["step"].tolist(), strict=True)])
        case _:  # without a time of their own: spread over the run
            return np.linspace(0.0, length, len(rows))
