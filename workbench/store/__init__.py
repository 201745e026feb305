"""The run folder: append, read, repair, export.

A run folder holds job.json, cluster.json, status.json, an Arrow IPC stream per source and table ("rank-00003.0.arrow"
for the steps, "rank-00003.0.spans.arrow" ...), events.jsonl and checkpoints/. A *source* is one writer: the first life
of rank 3 is "rank-00003.0", its next one "rank-00003.1"; all ranks of a virtual world are "world.0". The rows of a
table are numbered per source, 0, 1, 2, ...
"""

from workbench.store.arrow import Rows, from_arrow, to_arrow
from workbench.store.export import export_parquet
from workbench.store.folder import create_run_folder, is_whole, read_json, read_mapping, write_json
from workbench.store.log import EVENTS_FILE, RunLog, next_source, plain
from workbench.store.reading import Batch, EventReader, StreamReader, read_events, read_source, read_table, streams

__all__ = [
    "EVENTS_FILE",
    "Batch",
    "EventReader",
    "Rows",
    "RunLog",
    "StreamReader",
    "create_run_folder",
    "export_parquet",
    "from_arrow",
    "is_whole",
    "next_source",
    "plain",
    "read_events",
    "read_json",
    "read_mapping",
    "read_source",
    "read_table",
    "streams",
    "to_arrow",
    "write_json",
]
