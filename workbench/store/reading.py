"""The reader's side of a run folder: whole batches only, checked, also while their writers go on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import pyarrow as pa

from workbench.errors import RunFolderDamaged
from workbench.store.arrow import Rows, checksum, dtype_of, fitted, from_arrow
from workbench.store.folder import is_whole
from workbench.store.log import EVENTS_FILE, file_of, parse_file
from workbench.telemetry import TABLES

_WHOLE: Final = ("rank", "step", "number", "lost", "workers", "steps", "steps_per_epoch")
"""What is a whole number in every event that has it: it is counted with and looked up by."""
MARKER: Final = b"\xff\xff\xff\xff"
"""What every Arrow message begins with."""


class Batch(NamedTuple):
    """Rows of one source and table, numbered from `first` on."""

    source: str
    table: str
    first: int
    rows: Rows


def streams(folder: Path, table: str | None = None) -> list[tuple[str, str, Path]]:
    """(source, table, file) of every stream in a run folder, in the order of their names."""
    found = [(*parsed, path) for path in sorted(Path(folder).glob("*.arrow")) if (parsed := parse_file(path))]
    return [entry for entry in found if table is None or entry[1] == table]


def read_table(folder: Path, table: str, *, since: Mapping[str, int] | None = None, damage: list[str] | None = None) -> Rows:
    """All rows of a table, source after source; with `since` (source -> number) only those from that number on.

    A batch that was cut off at the end of its file is left out, and `damage` gets a line that says so. A batch with
    a wrong checksum raises RunFolderDamaged, which names the file and the batch.
    """
    parts = []
    for source, _, path in streams(folder, table):
        reader = StreamReader(path)
        start = (since or {}).get(source, 0)
        parts += [batch.rows[max(0, start - batch.first) :] for batch in reader.read() if batch.first + len(batch.rows) > start]
        if reader.torn and damage is not None:
            damage.append(reader.torn)
    return np.concatenate(parts) if parts else np.empty(0, TABLES[table])


def read_source(folder: Path, source: str, table: str, since: int = 0) -> tuple[int, Rows]:
    """(first, rows) that one source has from number `since` on, without a gap; what answers a pull."""
    path = file_of(Path(folder), source, table)
    batches = [batch for batch in StreamReader(path).read() if batch.first + len(batch.rows) > since] if path.exists() else []
    if not batches:
        return since, np.empty(0, TABLES[table])
    first = max(since, batches[0].first)
    return first, batches[0].rows[first - batches[0].first :]


def read_events(folder: Path, damage: list[str] | None = None) -> list[dict[str, Any]]:
    """The events of a run in the order in which they were written; what cannot be read is left out and told in `damage`."""
    reader = EventReader(folder)
    events = reader.read()
    if damage is not None:
        damage += reader.damage
    return events


@final
class StreamReader:
    """Reads what a stream has gained since the last `read`; between reads no file is open.

    `torn` says, after a read, that the file ends in the middle of a batch: its writer is just writing or was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        parsed = parse_file(self.path)
        if parsed is None:
            raise ValueError(f"{self.path.name} is not a name of a stream")
        self.source, self.table = parsed
        self.torn: str | None = None
        self._head = b""
        self._offset = 0
        self._count = 0
        self._dtype: np.dtype[Any] | None = None

    def read(self) -> list[Batch]:
        """New rows, as batches without a gap inside; raises RunFolderDamaged, OSError."""
        self.torn = None
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                news = file.read()
        except IsADirectoryError as error:
            raise RunFolderDamaged(f"{self.path} is damaged: it is a folder and not a file") from error
        if not news:
            return []
        firsts, batches = [], []
        for first, batch in self._whole(news):
            firsts.append(first)
            batches.append(batch)
        return self._joined(firsts, batches)

    def _joined(self, firsts: list[int], batches: list[Any]) -> list[Batch]:
        """Small batches as large ones: one per stretch of rows without a gap."""
        result: list[Batch] = []
        start = 0
        for index in range(1, len(batches) + 1):
            if index < len(batches) and firsts[index] == firsts[index - 1] + batches[index - 1].num_rows:
                continue
            assert self._dtype is not None
            rows = fitted(from_arrow(batches[start:index], self._dtype), TABLES[self.table])
            result.append(Batch(self.source, self.table, firsts[start], rows))
            start = index
        return result

    def _whole(self, news: bytes) -> Iterator[tuple[int, Any]]:
        """(first, record batch) for every whole batch in `news`, the bytes from the offset on; moves the offset behind each."""
        window = _Window(self._head + news)
        shift = self._offset - len(self._head)
        try:
            reader = pa.ipc.open_stream(pa.PythonFile(window, "r"))
        except (pa.ArrowException, OSError, ValueError) as error:
            self._stop(news, window.short, f"its schema cannot be read: {error}")
            return
        if self._dtype is None:
            try:
                self._dtype = dtype_of(reader.schema)
            except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise RunFolderDamaged(f"{self.path} is damaged in its schema: {error}") from error
            self._head = news[: window.tell()]
            self._offset = len(self._head)
        while True:
            try:
                batch, marks = reader.read_next_batch_with_custom_metadata()
                first = self._checked(batch, marks)
            except StopIteration:
                self._stop(window.getvalue()[self._offset - shift :], False, "the stream ends before its file does")
                return
            except (pa.ArrowException, OSError, ValueError) as error:
                self._stop(window.getvalue()[self._offset - shift :], window.short, str(error))
                return
            self._offset = window.tell() + shift
            self._count += 1
            yield first, batch

    def _checked(self, batch: Any, marks: Any) -> int:
        """The number of a batch's first row; ValueError when a bit of it is not what was written."""
        marks = marks or {}
        first, crc = (bytes(marks.get(key, b"")) for key in ("first", "crc32"))
        if not first.isdigit() or not crc.isdigit():
            raise ValueError("its number or checksum cannot be read")
        if checksum(self.table, int(first), batch) != int(crc):
            raise ValueError("its checksum is wrong")
        batch.validate(full=True)
        return int(first)

    def _stop(self, rest: bytes, short: bool, what: str) -> None:
        """Decide what the unreadable end of a file is: nothing, a batch that was cut off, or damage."""
        if not rest:
            return
        cut = short and MARKER.startswith(rest[:4]) and not _holds_batch(rest)
        if not cut and any(rest):  # only zeros: blocks that a crash of the machine left unwritten
            raise RunFolderDamaged(f"{self.path} is damaged in batch {self._count}: {what}")
        self.torn = f"{self.path}: batch {self._count} is cut off at the end of the file ({len(rest)} bytes)"


@final
class EventReader:
    """Reads the events that a run has gained since the last `read`."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / EVENTS_FILE
        self.damage: list[str] = []
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """New events; a line that is still being written comes with a later read, one that is none goes to `damage`."""
        if not self.path.is_file():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            news = file.read()
        end = news.rfind(b"\n") + 1
        events = []
        for line in news[:end].splitlines(keepends=True):
            begin = line.rfind(b'{"kind"')
            event = _event(line)
            if event is None:
                # a writer whose disk was full left half a line; the next one's begins at its "kind"
                event = _event(line[begin:]) if begin > 0 else None
                what = "half a line" if begin >= 0 else "a line that is no event"
                self.damage.append(f"{self.path}: {what} near byte {self._offset}")
            if event is not None:
                events.append(event)
            self._offset += len(line)
        return events


def _event(line: bytes) -> dict[str, Any] | None:
    """The event that a line holds; None when it holds none, or one whose particulars are not what they must be."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("kind"), str):
        return None
    seconds = told.get("seconds")
    timed = seconds is None or (isinstance(seconds, int | float) and not isinstance(seconds, bool) and abs(seconds) < 1e300)
    return told if timed and all(is_whole(told.get(name)) for name in _WHOLE) else None


class _Window(io.BytesIO):
    """Bytes that note whether somebody asked for more than there are: so is a file that ends early told from a flipped bit."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.short = self.short or (size is not None and len(found) < size)
        return found


def _holds_batch(rest: bytes) -> bool:
    """Whether a whole batch follows behind an unreadable one: then the latter was not the last and is not cut off."""
    position = rest.find(MARKER, 8)
    while position > 0:
        length = int.from_bytes(rest[position + 4 : position + 8], "little")
        if position % 8 == 0 and 0 < length < 1 << 16:
            with suppress(pa.ArrowException, OSError, EOFError, ValueError):
                if pa.ipc.read_message(pa.py_buffer(rest[position:])).type == "record batch":
                    return True
        position = rest.find(MARKER, position + 1)
    return False
