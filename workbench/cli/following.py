"""Follow a run on the terminal: a bar with live numbers, and Ctrl-C that stops the run cleanly and keeps it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

FINISHED: Final = ("done", "failed", "stopped")
REFRESH_SECONDS: Final = 0.1
LINE_SECONDS: Final = 5.0
"""Where there is no terminal to draw on, a line this often."""


class Followed(Protocol):
    """What following needs of a `Run`."""

    @property
    def status(self) -> str:
        """starting running paused stopping done failed stopped."""
        ...

    def progress(self) -> Mapping[str, Any]:
        """step, steps, loss, samples_per_second, exchange_share; what is not known is None. `str` of it is one line."""
        ...

    def stop(self) -> object:
        """End at the next step that all ranks agree on."""
        ...

    def abort(self) -> object:
        """End at once."""
        ...


class Interrupts:
    """How often Ctrl-C was pressed. The third time ends this program, whatever it waits for."""

    count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called by Python at Ctrl-C."""
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Count Ctrl-C instead of being thrown out by it. Only on the main thread."""
    counted = Interrupts()
    before = signal.signal(signal.SIGINT, counted)
    try:
        yield counted
    finally:
        signal.signal(signal.SIGINT, before)


def follow(run: Followed, label: str, console: Console) -> int:
    """Draw until the run has ended; how often Ctrl-C was pressed: once stops the run cleanly, twice aborts it."""
    bar = Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:<8.3g}  {task.fields[rate]:>6,.0f} samples/s  {task.fields[share]:>4.0%} exchanging"),
        TimeElapsedColumn(),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )
    obeyed, spoken = 0, time.monotonic()
    with interrupts() as pressed, bar:
        task = bar.add_task(label, total=None, loss=math.nan, rate=0.0, share=0.0)
        while True:
            ended = run.status in FINISHED
            now = run.progress()
            bar.update(task, completed=now["step"], total=now["steps"], loss=_number(now["loss"], math.nan))
            bar.update(task, rate=_number(now["samples_per_second"]), share=_number(now["exchange_share"]))
            if not console.is_terminal and (ended or time.monotonic() > spoken + LINE_SECONDS):
                console.print(f"{label}: {now}", markup=False, soft_wrap=True)
                spoken = time.monotonic()
            if ended:
                return pressed.count
            if pressed.count > obeyed:
                obeyed = pressed.count
                if obeyed == 1:
                    run.stop()
                    console.print("stopping at the next step; what was recorded is kept. Ctrl-C again ends it at once", soft_wrap=True)
                else:
                    run.abort()
                    console.print("ending at once")
            time.sleep(REFRESH_SECONDS)


def _number(value: Any, unknown: float = 0.0) -> float:
    return unknown if value is None else float(value)
