from __future__ import annotations

import threading
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.runs.fakes import FakeFeed, event, source_of, steps_of
from workbench.runs.cache import AHEAD, TAIL, Cache
from workbench.runs.records import Records
from workbench.runs.repair import TRIES
from workbench.store import RunLog
from workbench.telemetry import STEPS

KEY = (source_of(0), "steps")


def cuts(count: int, seed: int) -> list[tuple[int, int]]:
    """(first, length) of batches that cover `count` rows."""
    rng = np.random.default_rng(seed)
    edges = [0, *np.sort(rng.choice(np.arange(1, count), 20, replace=False)).tolist(), count]
    return [(begin, end - begin) for begin, end in pairwise(edges)]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_in_goes_out_in_order_and_once(seed: int) -> None:
    """Batches doubled, overlapping and shuffled."""
    rows = steps_of(0, 200)
    rng = np.random.default_rng(seed)
    batches = cuts(200, seed) + cuts(200, seed + 100)
    rng.shuffle(batches)
    cache, marker, seen = Cache(), 0, []
    for first, count in batches:
        cache.add(*KEY, first, rows[first : first + count])
        news = cache.since(marker)
        marker = news.marker
        seen.append(news.rows.get("steps", rows[:0]))
    assert not cache.holes()
    assert np.concatenate(seen)["step"].tolist() == list(range(200))
    assert cache.rows("steps").tobytes() == rows.tobytes()
    assert cache.lost == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("remembered", "limit"), [(0, 1 << 30), (0, 7), (60, 1 << 30), (150, 3)])
def test_holes_are_filled_by_asking(tmp_path: Path, seed: int, remembered: int, limit: int) -> None:
    rows = steps_of(0, 200)
    feed = FakeFeed({KEY: rows})
    feed.remembered[KEY], feed.limit = remembered, limit
    records = Records(tmp_path, feed)
    rng = np.random.default_rng(seed)
    batches = cuts(200, seed)
    kept = [batch for batch in batches if rng.random() < 0.5]
    rng.shuffle(kept)
    for first, count in kept:
        feed.push(*KEY, first, count)
    feed.end()
    assert records.over.wait(10)
    found = records.held("steps")["step"].tolist()
    arrived = {step for first, count in kept for step in range(first, first + count)}
    assert found == [step for step in range(200) if step in arrived or step >= remembered]
    assert records.cache.lost == 200 - len(found)


def test_a_rank_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    feed = FakeFeed({KEY: steps_of(0, 30)})
    records = Records(tmp_path, feed)
    feed.deaf = 2
    came = threading.Event()
    records.observe(lambda what: came.set() if len(records.held("steps")) == 30 else None)
    feed.push(*KEY, 20, 10)
    assert came.wait(10)
    assert len(feed.pulls) == 3 < TRIES
    assert records.cache.lost == 0
    records.close()


def test_what_the_rank_no_longer_has_comes_from_the_disk(tmp_path: Path) -> None:
    rows = steps_of(0, 50)
    log = RunLog(tmp_path, source_of(0))
    log.append("steps", 0, rows[:40])
    log.close()
    feed = FakeFeed({KEY: rows})
    feed.deaf = 1 << 30
    records = Records(tmp_path, feed)
    feed.push(*KEY, 45, 5)
    feed.end()
    assert records.over.wait(10)
    assert records.held("steps")["step"].tolist() == [*range(40), *range(45, 50)]
    assert records.cache.lost == 5


def test_the_last_rows_come_although_their_push_was_lost(tmp_path: Path) -> None:
    feed = FakeFeed({KEY: steps_of(0, 30), (source_of(0), "validation"): steps_of(0, 0)})
    records = Records(tmp_path, feed)
    feed.push(*KEY, 0, 20)
    feed.end()
    assert records.over.wait(10)
    assert len(records.held("steps")) == 30


def test_joining_a_run_that_is_on_brings_what_was_before(tmp_path: Path) -> None:
    rows = steps_of(0, 60)
    log = RunLog(tmp_path, source_of(0))
    log.append("steps", 0, rows[:20])
    log.close()
    feed = FakeFeed({KEY: rows})
    records = Records(tmp_path, feed)
    came = threading.Event()
    records.observe(lambda what: came.set() if len(records.held("steps")) == 60 else None)
    assert came.wait(10)
    records.close()


def test_memory_is_bounded_and_the_disk_has_the_rest(tmp_path: Path) -> None:
    sources = [source_of(rank) for rank in range(2)]
    truth = {(source, "steps"): steps_of(rank, 500) for rank, source in enumerate(sources)}
    feed = FakeFeed(truth)
    feed.shown = dict.fromkeys(truth, 0)
    records = Records(tmp_path, feed, limit_bytes=100 * STEPS.itemsize)
    logs = [RunLog(tmp_path, source) for source in sources]
    marker, seen = 0, 0
    for first in range(0, 500, 10):
        for rank, source in enumerate(sources):
            logs[rank].append("steps", first, truth[source, "steps"][first : first + 10])
            feed.push(source, "steps", first, 10)
        news = records.since(marker)
        assert news.whole
        marker, seen = news.marker, seen + len(news.rows.get("steps", ()))
    assert seen == 1000
    assert len(records.held("steps")) == 100
    everything = records.whole("steps")
    for rank in range(2):
        assert everything[everything["rank"] == rank]["step"].tolist() == list(range(500))
    assert not records.since(1).whole
    again = records.since(0)
    assert again.whole
    assert again.marker == marker
    assert again.rows["steps"].tobytes() == everything.tobytes()
    assert not records.since(again.marker).rows
    records.close()
    for log in logs:
        log.close()


def test_without_the_disk_it_says_that_the_beginning_is_missing(tmp_path: Path) -> None:
    feed = FakeFeed({KEY: steps_of(0, 500)})
    records = Records(tmp_path, feed, limit_bytes=100 * STEPS.itemsize)
    for first in range(0, 500, 10):
        feed.push(*KEY, first, 10)
    with pytest.warns(UserWarning, match="only the newest 100 rows of steps"):
        assert len(records.whole("steps")) == 100
    records.close()


def test_many_batches_behind_a_hole_do_not_pile_up() -> None:
    cache, rows = Cache(), steps_of(0, 3 * AHEAD)
    for first in range(1, 3 * AHEAD):
        cache.add(*KEY, first, rows[first : first + 1])
    stream = cache._streams[KEY]
    assert len(stream.ahead) <= AHEAD
    cache.fill(*KEY, 0, 0, rows)
    assert not cache.holes()
    assert cache.rows("steps").tobytes() == rows.tobytes()


def test_an_answer_that_comes_late_loses_nothing() -> None:
    """A pull that was asked before a push filled its hole says nothing of the next hole."""
    cache, rows = Cache(), steps_of(0, 100)
    cache.add(*KEY, 10, rows[10:20])
    cache.add(*KEY, 0, rows[:10])
    cache.add(*KEY, 50, rows[50:60])
    assert cache.fill(*KEY, 0, 0, rows[:15])
    assert cache.lost == 0
    assert cache.holes() == [(*KEY, 20)]
    assert not cache.fill(*KEY, 20, 20, rows[20:20])
    assert cache.lost == 30
    assert cache.rows("steps")["step"].tolist() == [*range(20), *range(50, 60)]


def test_the_newest_rows_of_every_rank_are_at_hand() -> None:
    cache = Cache()
    for rank in range(3):
        cache.add(source_of(rank), "steps", 0, steps_of(rank, 500))
    newest = cache.newest("steps")
    for rank in range(3):
        assert newest[newest["rank"] == rank]["step"].tolist() == list(range(500 - TAIL, 500))
    world = Cache()
    rows = np.concatenate([steps_of(rank, 500) for rank in range(4)])
    rows = rows[np.argsort(rows["step"], kind="stable")]
    for first in range(0, 2000, 10):
        world.add("world.0", "steps", first, rows[first : first + 10])
    newest = world.newest("steps")
    assert len(newest) < 2000
    for rank in range(4):
        assert newest[newest["rank"] == rank]["step"].tolist()[-TAIL:] == list(range(500 - TAIL, 500))


def test_an_event_counts_once_whether_it_is_numbered_or_not() -> None:
    cache = Cache()
    assert cache.event(event(0, 0, "start", 0, 0.0))
    assert not cache.event(event(0, 0, "start", 0, 0.0))
    assert cache.event(event(1, 0, "start", 0, 0.0))
    assert cache.event({"kind": "warning", "message": "x"})
    assert not cache.event({"message": "x", "kind": "warning"})
    assert len(cache.events()) == 3
    assert len(cache.since(2).events) == 1


def test_a_broken_observer_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feed = FakeFeed({KEY: steps_of(0, 10)})
    records = Records(tmp_path, feed)
    told: list[str] = []

    def broken(what: str) -> None:
        raise ValueError("a view that was closed")

    records.observe(broken)
    stop = records.observe(told.append)
    feed.push(*KEY, 0, 5)
    feed.tell(event(0, 0, "start", 0, 0.0))
    feed.tell(event(0, 0, "start", 0, 0.0))
    assert told == ["rows", "events"]
    assert "a view that was closed" in caplog.text
    stop()
    feed.push(*KEY, 5, 5)
    assert told == ["rows", "events"]
    records.close()


def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """Two feeds' threads, a view and the keeper; in the end every row was seen once."""
    truth = {(source_of(rank), "steps"): steps_of(rank, 2000) for rank in range(2)}
    feed = FakeFeed(truth)
    records = Records(tmp_path, feed)

    def push(source: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first = 0
        while first < 2000:
            count = int(rng.integers(1, 9))
            if rng.random() < 0.9:
                feed.push(source, "steps", first, min(count, 2000 - first))
            first += count

    threads = [threading.Thread(target=push, args=(source, seed)) for seed, (source, _) in enumerate(truth)]
    for thread in threads:
        thread.start()
    marker, seen = 0, []

    def look() -> None:
        nonlocal marker
        news = records.since(marker)
        marker = news.marker
        seen.extend((int(row["rank"]), int(row["step"])) for row in news.rows.get("steps", ()))

    while any(thread.is_alive() for thread in threads):
        look()
    feed.end()
    assert records.over.wait(10)
    look()
    assert len(seen) == len(set(seen)) == 4000
    for rank in range(2):
        assert [step for who, step in seen if who == rank] == list(range(2000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(records.whole("steps")) == 4000
