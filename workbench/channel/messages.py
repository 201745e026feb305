"""What the two sides say to each other: the names of the messages and how rows travel in them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from workbench.telemetry import TABLES

REQUEST: Final = "workbench_request"
"""Asked of an engine on ipyparallel's control channel; answered by its control thread while the rank computes or hangs."""
REPLY: Final = "workbench_reply"
PUSH: Final = "workbench_push"
"""Sent by an engine on its iopub socket without having been asked. `kind` says what: rows, event, beacon."""
TOPIC: Final = b"workbench"
"""How the first frame of a push begins; ipyparallel's own handler does not know such messages."""
CONTROLLER: Final = "WORKBENCH_CONTROLLER"
"""Environment of an engine: process id and start time of the controller on its host, as JSON."""
LIMIT: Final = 20_000
"""Rows in one answer to a pull: a few megabytes, so that the control thread is never busy for long."""

Rows = npt.NDArray[Any]


def pack(rows: Rows) -> bytes:
    """The rows of a table as bytes."""
    return np.ascontiguousarray(rows).tobytes()


def unpack(table: str, data: Any) -> Rows:
    """The rows that `pack` made, (n,) of the table's dtype, in memory of their own."""
    return np.frombuffer(bytes(data), dtype=TABLES[table])
