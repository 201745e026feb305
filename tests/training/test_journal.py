"""The journal: nothing is lost between the training thread and the disk, and views can ask again."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.store import Rows, RunLog, read_events, read_table
from workbench.training import journal as module
from workbench.training.journal import Flusher, Journal


def row(number: int) -> tuple[Any, ...]:
    return (0, number, 1, 8, 7)


def test_every_row_reaches_disk_and_view_once_and_in_order(tmp_path: Path) -> None:
    journal = Journal("rank-00000.0", tmp_path)
    pushed: list[tuple[str, int, Rows]] = []
    flusher = Flusher(journal, push=lambda table, first, rows: pushed.append((table, first, rows)))

    def write(start: int) -> None:
        for number in range(start, start + 3000):
            journal.append("traffic", row(number))
            if number % 500 == 0:
                time.sleep(0.02)

    threads = [threading.Thread(target=write, args=(10_000 * k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.event("end", rank=0, step=3)
    flusher.close()
    on_disk = read_table(tmp_path, "traffic")
    assert len(on_disk) == 9000
    assert sorted(on_disk["step"]) == sorted(n for k in range(3) for n in range(10_000 * k, 10_000 * k + 3000))
    assert [first for _, first, _ in pushed] == list(np.cumsum([0, *(len(rows) for _, _, rows in pushed[:-1])]))
    assert np.array_equal(np.concatenate([rows for _, _, rows in pushed]), on_disk)
    assert read_events(tmp_path)[0]["number"] == 0


def test_a_pull_gives_what_memory_or_disk_still_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 100)
    journal = Journal("rank-00000.0", tmp_path)
    flusher = Flusher(journal)
    for block in range(10):
        for number in range(50):
            journal.append("traffic", row(50 * block + number))
        while journal.counts()["traffic"] < 50 * (block + 1):
            time.sleep(0.005)
    flusher.close()
    for since in (0, 1, 250, 420, 499):
        first, rows = journal.pull("traffic", since)
        assert first <= since
        assert list(rows["step"][since - first :]) == list(range(since, 500))
    assert len(journal.pull("traffic", 500)[1]) == 0
    assert len(journal.pull("steps", 0)[1]) == 0


def test_a_full_disk_loses_nothing_and_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    append = RunLog.append

    def refuse(self: RunLog, table: str, first: int, rows: Rows) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, table, first, rows)

    monkeypatch.setattr(RunLog, "append", refuse)
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.02)
    told: list[dict[str, Any]] = []
    journal = Journal("rank-00000.0", tmp_path)
    flusher = Flusher(journal, push_event=told.append)
    for number in range(100):
        journal.append("traffic", row(number))
        time.sleep(0.002)
    while not told:
        time.sleep(0.01)
    time.sleep(0.2)
    full.clear()
    journal.append("traffic", row(100))
    flusher.close()
    assert [event["kind"] for event in told] == ["warning"]
    assert "No space left on device" in told[0]["message"]
    assert list(read_table(tmp_path, "traffic")["step"]) == list(range(101))
