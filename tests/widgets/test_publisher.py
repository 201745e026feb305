"""The publisher: one thread, no queue of ticks, and an error is shown instead of ending it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from workbench_widgets.publisher import Publisher


class Counter:
    """A panel that counts its ticks."""

    def __init__(self, period: float = 0.01, body: Callable[[int], None] = lambda tick: None) -> None:
        self.period, self.body = period, body
        self.ticks = 0
        self.threads: set[int] = set()
        self.errors: list[str] = []
        self.enough = threading.Event()

    def tick(self) -> float:
        self.ticks += 1
        self.threads.add(threading.get_ident())
        if self.ticks >= 3:
            self.enough.set()
        self.body(self.ticks)
        return self.period

    def failed(self, error: Exception) -> None:
        self.errors.append(str(error))


def test_one_thread_ticks_until_it_is_closed() -> None:
    panel = Counter()
    publisher = Publisher(panel)
    publisher.start()
    assert panel.enough.wait(5)
    publisher.close()
    ticks = panel.ticks
    assert len(panel.threads) == 1
    time.sleep(0.05)
    assert panel.ticks == ticks
    assert not publisher._thread.is_alive()


def test_a_tick_that_fails_is_shown_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    def body(tick: int) -> None:
        if tick == 1:
            raise RuntimeError("no such column")

    panel = Counter(body=body)
    publisher = Publisher(panel)
    with caplog.at_level(logging.CRITICAL, logger="workbench_widgets.publisher"):
        publisher.start()
        assert panel.enough.wait(5)
    publisher.close()
    assert panel.errors == ["no such column"]


def test_waking_it_often_is_one_tick() -> None:
    gate = threading.Event()
    panel = Counter(period=60, body=lambda tick: gate.wait(5) if tick == 1 else None)
    publisher = Publisher(panel)
    publisher.start()
    while panel.ticks == 0:
        time.sleep(0.001)
    for _ in range(100):
        publisher.wake()
    gate.set()
    while panel.ticks < 2:
        time.sleep(0.001)
    time.sleep(0.05)
    publisher.close()
    assert panel.ticks == 2


def test_a_slow_tick_is_followed_by_a_longer_rest() -> None:
    panel = Counter(period=0.0, body=lambda tick: time.sleep(0.05))
    publisher = Publisher(panel)
    began = time.perf_counter()
    publisher.start()
    assert panel.enough.wait(10)
    publisher.close()
    # three ticks of 0.05 s at a share of a fifth: the third one cannot begin before two rests of 0.25 s
    assert time.perf_counter() - began > 0.5


def test_it_may_be_closed_from_its_own_tick() -> None:
    panel = Counter(body=lambda tick: publisher.close() if tick == 2 else None)
    publisher = Publisher(panel)
    publisher.start()
    publisher._thread.join(5)
    assert panel.ticks == 2
