from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from workbench.errors import RunFolderDamaged
from workbench.store import (
    EventReader,
    RunLog,
    StreamReader,
    create_run_folder,
    export_parquet,
    from_arrow,
    next_source,
    read_events,
    read_json,
    read_source,
    read_table,
    to_arrow,
    write_json,
)
from workbench.telemetry import STEPS, TABLES


def some_rows(table: str, count: int, first: int = 0, rank: int = 0) -> np.ndarray:
    """Rows of a table with every column filled, the same for the same arguments."""
    dtype = TABLES[table]
    rows = np.zeros(count, dtype)
    rng = np.random.default_rng(first + 1000 * rank)
    for name in dtype.names:
        kind, shape = dtype[name].base.kind, rows[name].shape
        if kind == "U":
            rows[name] = rng.choice(["compute", "exchange", "", "größer"], count)
        elif kind == "i":
            rows[name] = rng.integers(-5, 1000, shape)
        else:
            rows[name] = rng.normal(size=shape)
    rows["rank"] = rank
    second = dtype.names[1]
    rows[second] = np.arange(first, first + count)
    if table == "steps":
        rows["gradient_norm"][::3] = np.nan
    return rows


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def write(folder: Path, source: str = "rank-00000.0", batches: int = 5, count: int = 7, table: str = "steps") -> np.ndarray:
    log = RunLog(folder, source)
    rank = int(re.sub(r"\D", "", source.split(".")[0]) or 0)
    parts = [some_rows(table, count, number * count, rank) for number in range(batches)]
    for number, rows in enumerate(parts):
        log.append(table, number * count, rows)
    log.close()
    return np.concatenate(parts)


def ends_of_batches(path: Path) -> list[int]:
    """Byte at which the schema and each batch end."""
    ends = []
    with pa.OSFile(str(path), "rb") as file:
        while True:
            try:
                pa.ipc.read_message(file)
            except EOFError:
                return ends
            ends.append(file.tell())


@pytest.mark.parametrize("table", list(TABLES))
@pytest.mark.parametrize("count", [0, 1, 33])
def test_arrow_keeps_every_column(table: str, count: int) -> None:
    rows = some_rows(table, count)
    assert same(from_arrow(to_arrow(rows), TABLES[table]), rows)


@pytest.mark.parametrize("table", list(TABLES))
def test_what_was_appended_is_read(tmp_path: Path, table: str) -> None:
    first = write(tmp_path, "rank-00000.0", table=table)
    second = write(tmp_path, "rank-00001.0", table=table)
    assert same(read_table(tmp_path, table), np.concatenate([first, second]))
    assert same(read_table(tmp_path, table, since={"rank-00000.0": 10, "rank-00001.0": 99}), first[10:])
    assert len(read_table(tmp_path, "server" if table != "server" else "steps")) == 0


def test_the_file_is_a_plain_arrow_stream(tmp_path: Path) -> None:
    rows = write(tmp_path, "world.0")
    with pa.ipc.open_stream(tmp_path / "world.0.arrow") as stream:
        table = stream.read_all()
    assert table.column("step").to_pylist() == rows["step"].tolist()
    assert table.schema.field("sketch").type == pa.list_(pa.float32(), 32)


def test_a_pull_is_answered_from_any_number(tmp_path: Path) -> None:
    rows = write(tmp_path)
    for since in (0, 1, 7, 34, 35, 80):
        first, found = read_source(tmp_path, "rank-00000.0", "steps", since)
        assert first == since
        assert same(found, rows[since:])
    assert read_source(tmp_path, "rank-00009.0", "steps", 3)[0] == 3


def test_a_gap_in_the_numbers_is_kept_and_going_back_is_refused(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "world.0")
    log.append("steps", 0, some_rows("steps", 3))
    log.append("steps", 10, some_rows("steps", 2, 10))
    with pytest.raises(ValueError, match="from number 11 on were already written"):
        log.append("steps", 11, some_rows("steps", 1))
    log.close()
    assert [(batch.first, len(batch.rows)) for batch in StreamReader(tmp_path / "world.0.arrow").read()] == [(0, 3), (10, 2)]
    first, rows = read_source(tmp_path, "world.0", "steps", 5)
    assert (first, rows["step"].tolist()) == (10, [10, 11])


def test_each_life_of_a_rank_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert next_source(tmp_path, 3) == "rank-00003.0"
    write(tmp_path, "rank-00003.0")
    write(tmp_path, "rank-00003.0", table="spans")
    assert next_source(tmp_path, 3) == "rank-00003.1"
    assert next_source(tmp_path, 30) == "rank-00030.0"
    log = RunLog(tmp_path, "rank-00003.0")
    with pytest.raises(FileExistsError):
        log.append("steps", 0, some_rows("steps", 1))
    log.close()


def test_wrong_calls_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must look like 'rank-00003\.0'"):
        RunLog(tmp_path, "../evil")
    log = RunLog(tmp_path, "world.0")
    with pytest.raises(ValueError, match="unknown table 'stepz'"):
        log.append("stepz", 0, some_rows("steps", 1))
    with pytest.raises(ValueError, match="dtype of"):
        log.append("spans", 0, some_rows("steps", 1))
    log.append("steps", 0, some_rows("steps", 0))
    assert not list(tmp_path.iterdir())
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append("steps", 0, some_rows("steps", 1))


@pytest.mark.parametrize("table", ["steps", "spans"])
def test_a_torn_tail_costs_its_batch(tmp_path: Path, table: str) -> None:
    rows = write(tmp_path, batches=3, table=table)
    path = next(tmp_path.glob("*.arrow"))
    whole = path.read_bytes()
    ends = ends_of_batches(path)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        damage: list[str] = []
        found = read_table(tmp_path, table, damage=damage)
        batches = max(0, sum(end <= length for end in ends) - 1)
        assert same(found, rows[: 7 * batches]), length
        assert bool(damage) == (length not in (0, *ends)), (length, damage)
        if damage:
            assert path.name in damage[0]
            assert f"batch {batches}" in damage[0]


def test_blocks_of_zeros_at_the_end_cost_nothing_before(tmp_path: Path) -> None:
    rows = write(tmp_path)
    with open(tmp_path / "rank-00000.0.arrow", "ab") as file:
        file.write(bytes(4096))
    damage: list[str] = []
    assert same(read_table(tmp_path, "steps", damage=damage), rows)
    assert "batch 5 is cut off" in damage[0]


@pytest.mark.parametrize("table", ["steps", "spans", "validation"])
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_found(tmp_path: Path, table: str, seed: int) -> None:
    rows = write(tmp_path, batches=3, count=3, table=table)
    path = next(tmp_path.glob("*.arrow"))
    whole = path.read_bytes()
    ends = ends_of_batches(path)
    rng = np.random.default_rng(seed)
    found = 0
    for at in rng.choice(len(whole), min(len(whole), 700), replace=False):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        batch = sum(end <= at for end in ends) - 1
        damage: list[str] = []
        try:
            read, words = read_table(tmp_path, table, damage=damage), ""
        except RunFolderDamaged as error:
            read, words = rows, str(error)
        if words:
            found += 1
            assert path.name in words
            # a batch whose flipped length is too short or too long is seen where the next one should begin
            assert any(("schema" if number < 0 else f"batch {number}") in words for number in (batch, batch + 1)), (at, words)
        else:
            # a bit that carries nothing (padding), or a length in the last batch that looks like a cut
            assert same(read, rows) or (damage and batch == 2 and same(read, rows[:6])), at
    assert found > 300 * len(whole) / max(len(whole), 700) * 0.5


def test_the_damaged_batch_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "rank-00000.0.arrow"
    ends = ends_of_batches(path)
    data = bytearray(path.read_bytes())
    data[ends[3] - 100] ^= 4
    path.write_bytes(data)
    with pytest.raises(RunFolderDamaged, match=r"rank-00000\.0\.arrow is damaged in batch 2: its checksum is wrong"):
        read_table(tmp_path, "steps")


def test_reading_while_the_writer_is_active(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "world.0")
    log.append("steps", 0, some_rows("steps", 1))
    reader = StreamReader(tmp_path / "world.0.arrow")
    expected, stop = [some_rows("steps", 1)], threading.Event()

    def go_on() -> None:
        first = 1
        for count in np.random.default_rng(0).integers(1, 60, 300):
            rows = some_rows("steps", count, first)
            log.append("steps", first, rows)
            expected.append(rows)
            first += count
        stop.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    batches = []
    while not stop.is_set():
        batches += reader.read()
    writer.join()
    batches += reader.read()
    log.close()
    assert reader.torn is None
    assert not reader.read()
    following = 0
    for batch in batches:
        assert batch.first == following
        following += len(batch.rows)
    assert same(np.concatenate([batch.rows for batch in batches]), np.concatenate(expected))


def test_a_killed_writer_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    script = """
import sys, numpy as np
from workbench.store import RunLog
from workbench.telemetry import STEPS
log = RunLog(sys.argv[1], "rank-00000.0")
first = 0
while True:
    rows = np.zeros(11, STEPS); rows["step"] = np.arange(first, first + 11)
    log.append("steps", first, rows); first += 11
    print(first, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().splitlines()]
    rows = read_table(tmp_path, "steps", damage=[])
    assert len(rows) >= max(told, default=550)
    assert rows["step"].tolist() == list(range(len(rows)))


def test_a_full_disk_is_passed_on_and_the_stream_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes only part of a batch, at every place where it may end."""
    real = os.write
    room = [0]

    def limited(file: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real(file, bytes(data)[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    log = RunLog(tmp_path, "world.0")
    path = tmp_path / "world.0.arrow"
    expected: list[np.ndarray] = []
    first = 0
    for place in [0, 1, 7, 8, 100, 2000, 4000, 5000, *range(0, 6000, 313)]:
        rows = some_rows("steps", 4, first)
        room[0] = place
        error = None
        try:
            log.append("steps", first, rows)
        except OSError as raised:
            error = raised.errno
        if error is not None:
            assert error == 28
            assert log.rows()["steps"] == first
            damage: list[str] = []
            assert len(read_table(tmp_path, "steps", damage=damage)) == first
            assert not damage
            room[0] = 1 << 30
            log.append("steps", first, rows)  # the same rows again, once there is room
        expected.append(rows)
        first += 4
        assert path.stat().st_size == ends_of_batches(path)[-1]
    log.close()
    assert same(read_table(tmp_path, "steps"), np.concatenate(expected))


def test_a_file_at_its_size_limit_ends_with_its_last_whole_batch(tmp_path: Path) -> None:
    """The real thing: the kernel refuses in the middle of a write."""
    script = f"""
import resource, signal, sys, numpy as np
from workbench.store import RunLog, read_table
from workbench.telemetry import STEPS
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))
log = RunLog(sys.argv[1], "world.0")
first = 0
try:
    while True:
        log.append("steps", first, np.zeros(5, STEPS)); first += 5
except OSError as error:
    print(type(error).__name__, first, len(read_table(sys.argv[1], "steps")))
resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY}, {resource.RLIM_INFINITY}))
log.append("steps", first, np.zeros(5, STEPS))
log.close()
print(len(read_table(sys.argv[1], "steps")) - first)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert words[0] == "OSError"
    assert words[1] == words[2] != "0"
    assert words[3] == "5"


def test_no_file_stays_open(tmp_path: Path) -> None:
    def files() -> set[str]:
        return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")}

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to count open files")
    for table in TABLES:
        write(tmp_path, table=table)
    log = RunLog(tmp_path, "rank-00007.0")
    log.append("steps", 0, some_rows("steps", 2))
    log.event({"kind": "start"})
    log.close()
    log.close()
    path = tmp_path / "rank-00007.0.arrow"
    path.write_bytes(path.read_bytes()[:-3])
    reader = StreamReader(path)
    reader.read()
    read_table(tmp_path, "steps")
    read_events(tmp_path)
    export_parquet(tmp_path)
    path.write_bytes(b"not Arrow at all")
    with pytest.raises(RunFolderDamaged):
        read_table(tmp_path, "steps")
    assert not [name for name in files() if str(tmp_path) in name]


def test_a_table_of_an_older_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not recorded then is NaN; what is not known now is left out."""
    old = np.dtype([("rank", "i4"), ("step", "i8"), ("forgotten", "f4")])
    monkeypatch.setitem(TABLES, "steps", old)
    rows = np.zeros(4, old)
    rows["step"] = range(4)
    log = RunLog(tmp_path, "world.0")
    log.append("steps", 0, rows)
    log.close()
    monkeypatch.setitem(TABLES, "steps", STEPS)
    found = read_table(tmp_path, "steps")
    assert found.dtype == STEPS
    assert found["step"].tolist() == [0, 1, 2, 3]
    assert np.isnan(found["loss"]).all()


def test_events_of_several_sources_share_a_file(tmp_path: Path) -> None:
    logs = [RunLog(tmp_path, f"rank-{rank:05d}.0") for rank in range(3)]

    def tell(log: RunLog, rank: int) -> None:
        for step in range(200):
            log.event({"rank": rank, "kind": "change", "step": np.int64(step), "loss": float("nan"), "rate": np.float32(0.5), "path": tmp_path})

    threads = [threading.Thread(target=tell, args=(log, rank)) for rank, log in enumerate(logs)]
    reader = EventReader(tmp_path)
    for thread in threads:
        thread.start()
    events = []
    while any(thread.is_alive() for thread in threads):
        events += reader.read()
    events += reader.read()
    for log in logs:
        log.close()
    assert events == read_events(tmp_path)
    assert not reader.damage
    for rank in range(3):
        mine = [event for event in events if event["rank"] == rank]
        assert [event["step"] for event in mine] == list(range(200))
    assert events[0] | {"rank": 0, "step": 0} == {"kind": "change", "rank": 0, "step": 0, "loss": "nan", "rate": 0.5, "path": str(tmp_path)}
    for line in (tmp_path / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"kind": "start"}\n{"kind": "pau{"kind": "stop", "step": 3}\n{"kind": "en')
    damage: list[str] = []
    assert read_events(tmp_path, damage) == [{"kind": "start"}, {"kind": "stop", "step": 3}]
    assert "half a line" in damage[0]
    assert read_events(tmp_path / "nowhere") == []


def test_json_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"status": "done", "steps": np.int64(3), "loss": np.float32("nan")})
    assert read_json(path) == {"status": "done", "steps": 3, "loss": "nan"}

    class Unwritable(dict):
        def items(self):  # type: ignore[no-untyped-def]
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_json(path, Unwritable())
    assert read_json(path)["status"] == "done"
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]
    path.write_text('{"status": ')
    with pytest.raises(RunFolderDamaged, match=r"status\.json is not JSON"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "job.json")


def test_run_folders_never_collide(tmp_path: Path) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(create_run_folder(tmp_path / "runs", "Synchronous(Ring) / ../x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 8
    for folder in folders:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}-synchronous-ring-x(-\d)?", folder.name)
        assert (folder / "checkpoints").is_dir()
    assert create_run_folder(tmp_path, "").name.startswith(time.strftime("%Y-"))


def test_parquet_reads_in_pandas(tmp_path: Path) -> None:
    steps = np.concatenate([write(tmp_path, "rank-00000.0"), write(tmp_path, "rank-00001.0")])
    spans = write(tmp_path, "rank-00000.0", table="spans")
    log = RunLog(tmp_path, "rank-00000.0")
    log.event({"kind": "change", "step": 3, "learning_rate": 0.1})
    log.close()
    out = tmp_path / "parquet"
    assert [path.name for path in export_parquet(tmp_path, out)] == ["steps.parquet", "spans.parquet", "events.parquet"]
    frame = pd.read_parquet(out / "steps.parquet")
    np.testing.assert_array_equal(frame["loss"], steps["loss"])
    np.testing.assert_array_equal(np.stack(frame["sketch"].to_list()), steps["sketch"])
    assert frame["source"].value_counts().to_dict() == {"rank-00000.0": 35, "rank-00001.0": 35}
    assert pd.read_parquet(out / "spans.parquet")["kind"].tolist() == spans["kind"].tolist()
    events = pd.read_parquet(out / "events.parquet")
    assert events["kind"].tolist() == ["change"]
    assert json.loads(events["details"][0]) == {"learning_rate": 0.1}
    assert sorted(path.name for path in export_parquet(tmp_path)) == ["events.parquet", "spans.parquet", "steps.parquet"]


@pytest.mark.parametrize(
    "line", ["5", "null", "[]", '{"foo": 1}', '{"kind": 1}', '{"kind": "end", "rank": [1]}', '{"kind": "end", "step": "abc"}', "[" * 100_000]
)
def test_a_line_that_is_no_event_is_told_and_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f'{{"kind": "start", "rank": 0}}\n{line}\n{{"kind": "end", "rank": 0}}\n')
    damage: list[str] = []
    assert [event["kind"] for event in read_events(tmp_path, damage)] == ["start", "end"]
    assert len(damage) == 1
    assert "near byte 29" in damage[0]
