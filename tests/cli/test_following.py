from __future__ import annotations

import os
import signal
import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from workbench.cli.following import follow, interrupts
from workbench.runs.figures import Progress


class FakeRun:
    """A run that trains until it is told to stop; `stubborn` ones only listen to abort."""

    def __init__(self, ends_by_itself: bool = False, stubborn: bool = False) -> None:
        self.status, self.stubborn, self.orders, self.polls = "running", stubborn, list[str](), 0
        self.ends_by_itself = ends_by_itself

    def progress(self) -> Progress:
        self.polls += 1
        if self.ends_by_itself and self.polls > 3:
            self.status = "done"
        known = self.polls > 1
        return Progress(
            status=self.status,
            step=min(self.polls, 4) if known else 0,
            steps=4,
            epoch=1 if known else None,
            epochs=1,
            loss=2.0 if known else None,
            samples_per_second=1234.0 if known else None,
            exchange_share=0.25 if known else None,
            accuracy=None,
        )

    def stop(self) -> None:
        self.orders.append("stop")
        if not self.stubborn:
            self.status = "stopped"

    def abort(self) -> None:
        self.orders.append("abort")
        self.status = "stopped"


def press(times: int) -> threading.Thread:
    def body() -> None:
        for _ in range(times):
            time.sleep(0.25)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=body)
    thread.start()
    return thread


@pytest.mark.parametrize("terminal", [True, False])
def test_follow_draws_to_the_end(terminal: bool) -> None:
    text = StringIO()
    run = FakeRun(ends_by_itself=True)
    assert follow(run, "synchronous ring", Console(file=text, force_terminal=terminal, width=120)) == 0
    assert run.orders == []
    shown = text.getvalue()
    for words in ("synchronous ring", "loss 2", "1,234 samples/s", "25", "4/4" if terminal else "4 of 4"):
        assert words in shown


def test_one_interrupt_stops_the_run_cleanly() -> None:
    run = FakeRun()
    presser = press(times=1)
    assert follow(run, "gossip", Console(file=StringIO())) == 1
    presser.join()
    assert run.orders == ["stop"]


def test_a_second_interrupt_aborts_it() -> None:
    run = FakeRun(stubborn=True)
    presser = press(times=2)
    assert follow(run, "gossip", Console(file=StringIO())) == 2
    presser.join()
    assert run.orders == ["stop", "abort"]


def test_the_third_interrupt_gets_through_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as pressed:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert pressed.count == 3
    assert signal.getsignal(signal.SIGINT) is before
