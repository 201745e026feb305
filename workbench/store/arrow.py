"""Records as Arrow: a structured array becomes a record batch and back, with a checksum that finds a flipped bit."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[Any]
"""Rows of one table: a structured array, one field per column."""


def schema_of(dtype: np.dtype[Any]) -> Any:
    """The Arrow schema of a table's dtype: text as strings, sub-arrays as lists of fixed size."""
    assert dtype.names is not None
    return pa.schema([pa.field(name, _type_of(dtype[name]), nullable=False) for name in dtype.names])


def to_arrow(rows: Rows) -> Any:
    """A record batch of structured `rows` (n,)."""
    columns = [_column(rows[name]) for name in rows.dtype.names or ()]
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(rows.dtype))


def from_arrow(batches: Any, dtype: np.dtype[Any]) -> Rows:
    """Rows (n,) of `dtype` from one record batch or a list of them whose schema is that of `dtype`."""
    table = pa.Table.from_batches(batches if isinstance(batches, list) else [batches], schema=schema_of(dtype))
    rows = np.empty(table.num_rows, dtype)
    for name in dtype.names or ():
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # what older versions give back for a table of several batches
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if dtype[name].subdtype is not None:
            rows[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(rows[name].shape)
        else:
            rows[name] = column.to_numpy(zero_copy_only=False)
    return rows


def fitted(rows: Rows, dtype: np.dtype[Any]) -> Rows:
    """`rows` with the columns of `dtype`: what an older or newer version did not record is NaN (zero in whole numbers)."""
    if rows.dtype == dtype:
        return rows
    result = np.zeros(len(rows), dtype)
    for name in dtype.names or ():
        if name in (rows.dtype.names or ()):
            result[name] = rows[name]
        elif dtype[name].base.kind == "f":
            result[name] = np.nan
    return result


def checksum(table: str, first: int, batch: Any) -> int:
    """CRC-32 of a batch: of "table:first:rows", then of the value buffers of its columns in order, without padding."""
    crc = zlib.crc32(f"{table}:{first}:{batch.num_rows}".encode())
    for column in batch.columns:
        buffers = column.buffers()
        for position, buffer in enumerate(buffers):
            # the first buffer of every (nested) array is its validity bitmap, which a column without nulls does not have
            if buffer is not None and position:
                crc = zlib.crc32(buffer, crc)
    return crc


def described(table: str, source: str, dtype: np.dtype[Any]) -> Any:
    """The schema at the head of a stream: it says of which table and writer it is, and guards its own columns."""
    columns = json.dumps(dtype.descr)
    head = {"table": table, "source": source, "columns": columns, "crc32": str(zlib.crc32(f"{table}:{source}:{columns}".encode()))}
    return schema_of(dtype).with_metadata(head)


def dtype_of(schema: Any) -> np.dtype[Any]:
    """The dtype that `described` put into a schema; ValueError when the schema is not what was written."""
    head = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if str(zlib.crc32(f"{head.get('table')}:{head.get('source')}:{head.get('columns')}".encode())) != head.get("crc32"):
        raise ValueError("the checksum of its columns is wrong")
    dtype = np.dtype([tuple(tuple(part) if isinstance(part, list) else part for part in column) for column in json.loads(head["columns"])])
    if not schema.equals(schema_of(dtype)):
        raise ValueError("its columns are not the ones that it names")
    return dtype


def _type_of(dtype: np.dtype[Any]) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return pa.list_(_type_of(base), int(np.prod(shape)))
    return pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)


def _column(values: Rows) -> Any:
    if values.ndim > 1:
        width = int(np.prod(values.shape[1:]))
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), width)
    if values.dtype.kind == "U":
        return pa.array(values.tolist(), pa.string())
    return pa.array(np.ascontiguousarray(values))
