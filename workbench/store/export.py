"""A run folder as Parquet, which pandas, polars and DuckDB read (they do not read Arrow streams)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.store.arrow import schema_of, to_arrow
from workbench.store.log import EVENTS_FILE
from workbench.store.reading import StreamReader, read_events, streams
from workbench.telemetry import TABLES


def export_parquet(folder: Path, out: Path | None = None) -> list[Path]:
    """Write one Parquet file per table that has rows, and one of the events, into `out` (the run folder itself).

    Every row keeps its columns and gains `source`, the name of its writer. Raises RunFolderDamaged.
    """
    folder = Path(folder)
    out = Path(out or folder)
    out.mkdir(parents=True, exist_ok=True)
    written = [
        _write(out / f"{table}.parquet", schema_of(TABLES[table]).append(pa.field("source", pa.string())), _batches(folder, table))
        for table in TABLES
        if streams(folder, table)
    ]
    if (folder / EVENTS_FILE).exists():
        written.append(_write(out / "events.parquet", _EVENTS, [_events(read_events(folder))]))
    return written


_EVENTS = pa.schema([("kind", pa.string()), ("rank", pa.int32()), ("step", pa.int64()), ("seconds", pa.float64()), ("details", pa.string())])


def _batches(folder: Path, table: str) -> Iterator[Any]:
    for source, _, path in streams(folder, table):
        for batch in StreamReader(path).read():
            rows = to_arrow(batch.rows)
            yield rows.append_column(pa.field("source", pa.string()), pa.array([source] * rows.num_rows, pa.string()))


def _events(events: list[dict[str, Any]]) -> Any:
    """Events as a batch: what all kinds have in columns, the rest as JSON in `details`."""
    common = ("kind", "rank", "step", "seconds")
    columns: dict[str, list[Any]] = {name: [event.get(name) for event in events] for name in common}
    columns["details"] = [json.dumps({key: value for key, value in event.items() if key not in common}) for event in events]
    return pa.RecordBatch.from_pydict(columns, schema=_EVENTS)


def _write(path: Path, schema: Any, batches: Iterable[Any]) -> Path:
    temporary = path.with_name(f".{path.name}.part")
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path
