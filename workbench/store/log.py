"""The writer's side of a run folder: every source appends batches to streams of its own, and lines to the events of all.

A batch is in its file once `append` returns: killing the process costs nothing that was appended, and a batch that
was cut in the middle is never taken for a whole one.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa

from workbench.store.arrow import Rows, checksum, described, to_arrow
from workbench.telemetry import TABLES

EVENTS_FILE = "events.jsonl"
_SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9-]*\.\d+")


def file_of(folder: Path, source: str, table: str) -> Path:
    """Where a source keeps a table: the steps under its plain name, the others with the name of the table."""
    return folder / (f"{source}.arrow" if table == "steps" else f"{source}.{table}.arrow")


def parse_file(path: Path) -> tuple[str, str] | None:
    """(source, table) of a stream's file; None for a file that is none."""
    parts = path.name.split(".")
    if parts[-1] != "arrow" or not 3 <= len(parts) <= 4:
        return None
    source, table = ".".join(parts[:2]), parts[2] if len(parts) == 4 else "steps"
    return (source, table) if _SOURCE.fullmatch(source) and table in TABLES else None


def next_source(folder: Path, rank: int) -> str:
    """The name under which the next life of a rank writes: rank-00003.0 the first time, then rank-00003.1, ..."""
    name = f"rank-{rank:05d}"
    lives = [parsed[0].rsplit(".", 1)[1] for path in Path(folder).glob(f"{name}.*") if (parsed := parse_file(path))]
    return f"{name}.{max(map(int, lives), default=-1) + 1}"


@final
class RunLog:
    """What one source (a rank, a virtual world) writes into its run folder. For one thread.

    Raises OSError when the disk is full or gone; the streams then end with their last whole batch, and the same
    batch may be appended again later.
    """

    def __init__(self, folder: Path, source: str) -> None:
        if not _SOURCE.fullmatch(source):
            raise ValueError(f"RunLog(source={source!r}): source must look like 'rank-00003.0', got {source!r}")
        self.folder, self.source = Path(folder), source
        self._streams: dict[str, _Stream] = {}
        self._events: int | None = None
        self._closed = False

    def append(self, table: str, first: int, rows: Rows) -> None:
        """Write a batch: `rows` (n,) of the table's dtype, numbered from `first` on in this source. No rows: nothing.

        Numbers may leave a gap (rows that were lost) but never go back; that is a ValueError.
        """
        if table not in TABLES:
            raise ValueError(f"unknown table {table!r} (known: {', '.join(TABLES)})")
        if rows.dtype != TABLES[table]:
            raise ValueError(f"rows of {table} must have the dtype of workbench.telemetry.TABLES[{table!r}], got {rows.dtype}")
        if self._closed:
            raise ValueError(f"the log of {self.source} is closed")
        if not len(rows):
            return
        stream = self._streams.get(table)
        if stream is None:
            stream = self._streams[table] = _Stream(file_of(self.folder, self.source, table), table, self.source)
        stream.append(first, rows)

    def rows(self) -> dict[str, int]:
        """Table -> number of the next row: how many rows this source has recorded so far."""
        return {table: stream.next for table, stream in self._streams.items()}

    def event(self, event: Mapping[str, Any]) -> None:
        """Append one line to the events of the run, which all sources share. `kind` must be there."""
        # "kind" comes first so that a reader finds where a line begins even behind one that a full disk cut off
        line = {"kind": event["kind"], **{key: value for key, value in event.items() if key != "kind"}}
        if self._events is None:
            self._events = os.open(self.folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        _write_all(self._events, (json.dumps(plain(line), allow_nan=False) + "\n").encode())

    def close(self) -> None:
        """Close the files. Closing twice is nothing."""
        self._closed = True
        for stream in self._streams.values():
            stream.close()
        events, self._events = self._events, None
        if events is not None:
            os.close(events)


class _Stream:
    """One Arrow IPC stream: batches are made in memory and reach the file in one write each."""

    def __init__(self, path: Path, table: str, source: str) -> None:
        # O_EXCL: a stream is never appended to by a second writer; a restarted rank is a source of its own
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._table = table
        self._end = 0
        self._torn = False
        self._memory = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._memory, described(table, source, TABLES[table]))
        self._head: bytes | None = None
        self.next = 0

    def append(self, first: int, rows: Rows) -> None:
        if first < self.next:
            raise ValueError(f"rows of {self._table} from number {first} on were already written (up to {self.next - 1})")
        assert self._file is not None
        batch = to_arrow(rows)
        self._writer.write_batch(batch, custom_metadata={"first": str(first), "crc32": str(checksum(self._table, first, batch))})
        written = self._memory.getvalue()
        self._memory.seek(0)
        self._memory.truncate()
        if self._head is None:
            # Arrow's writer emits the schema once; it is kept until a batch really is in the file
            length = 8 + int.from_bytes(written[4:8], "little")  # marker, length, metadata; a schema has no body
            self._head, written = written[:length], written[length:]
        if self._torn:
            self._cut()
        data = written if self._end else self._head + written
        try:
            _write_all(self._file, data)
        except BaseException:
            self._torn = True
            with suppress(OSError):  # tried again before the next batch
                self._cut()
            raise
        self._end += len(data)
        self.next = first + len(rows)

    def _cut(self) -> None:
        """Back to the end of the last whole batch."""
        assert self._file is not None
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        self._torn = False

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy numbers and arrays become plain ones, NaN and infinities their names, the rest its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
