"""The tables that a run records. Every column has a definition and a unit; every figure on the bench comes from here.

A record is one row of a NumPy structured array, so that one representation serves the rank that appends it, the
message that carries it, the Arrow file that keeps it and the data frame that shows it. All times are seconds since
the start of the run on the clock of rank 0.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

SKETCH: Final = 32
"""Numbers in a count-sketch of the parameters (Alon, Matias and Szegedy, 1996); the squared distance of two
parameter vectors is estimated from their sketches with a relative error of sqrt(2 / SKETCH) = 25 %."""

STEPS: Final = np.dtype(
    [
        ("rank", "i4"),
        ("step", "i8"),
        ("epoch", "i4"),
        ("samples", "i4"),
        ("loss", "f4"),
        ("learning_rate", "f4"),
        ("start_seconds", "f8"),
        ("load_seconds", "f4"),
        ("compute_seconds", "f4"),
        ("update_seconds", "f4"),
        ("exchange_seconds", "f4"),
        ("hidden_seconds", "f4"),
        ("staleness", "f4"),
        ("weight", "f4"),
        ("bytes_sent", "i8"),
        ("bytes_received", "i8"),
        ("messages_sent", "i4"),
        ("gradient_norm", "f4"),
        ("sketch", "f4", (SKETCH,)),
    ]
)

SPANS: Final = np.dtype(
    [("rank", "i4"), ("step", "i8"), ("kind", "U12"), ("exchange", "i4"), ("peer", "i4"), ("start_seconds", "f8"), ("end_seconds", "f8")]
)

TRAFFIC: Final = np.dtype([("rank", "i4"), ("step", "i8"), ("peer", "i4"), ("bytes", "i8"), ("messages", "i8")])

SERVER: Final = np.dtype(
    [("rank", "i4"), ("update", "i8"), ("peer", "i4"), ("clock", "i8"), ("staleness", "f4"), ("seconds", "f8"), ("busy_seconds", "f4")]
)

VALIDATION: Final = np.dtype(
    [("rank", "i4"), ("step", "i8"), ("epoch", "i4"), ("samples", "i4"), ("loss", "f4"), ("accuracy", "f4"), ("seconds", "f8")]
)

TABLES: Final = {"steps": STEPS, "spans": SPANS, "traffic": TRAFFIC, "server": SERVER, "validation": VALIDATION}
"""Every table that ranks append to. Events are free-form JSON lines beside them: see `EVENTS`."""

EVENTS: Final = ("start", "pause", "resume", "change", "swap", "exchange", "stop", "abort", "checkpoint", "warning", "fault", "error", "end")
"""The kinds of event. An event is a dict with `kind`, `rank`, `step`, `seconds` and what else the kind says."""

PHASES: Final = ("load", "compute", "update", "exchange")
"""The phases of a step on the training thread; they add up to its wall time."""

NO_SKETCH: Final = (math.nan,) * SKETCH
"""The sketch of a step at which none was taken."""

COLUMNS: Final = {
    "rank": ("", "number of the rank at the start of the run; -1 stands for the answer of all ranks"),
    "step": ("", "local mini-batches done before this one, counted from 0"),
    "epoch": ("", "passes over the training data completed before this step"),
    "samples": ("samples", "samples of this step on this rank"),
    "loss": ("", "mean loss of the samples"),
    "learning_rate": ("", "step size of the update"),
    "start_seconds": ("s", "when the step (or span) began, since the start of the run"),
    "end_seconds": ("s", "when the span ended, since the start of the run"),
    "load_seconds": ("s", "from the end of the step before until the mini-batch is there, bookkeeping included"),
    "compute_seconds": ("s", "forward and backward; with overlap also what training itself does meanwhile for the exchange"),
    "update_seconds": ("s", "optimizer"),
    "exchange_seconds": ("s", "time the training thread was blocked by communication, waiting for peers included"),
    "hidden_seconds": (
        "s",
        "time of load, compute and update in which an exchange was under way, or waited for a late peer; "
        "on real ranks a thread carries it on and takes a little of that time",
    ),
    "staleness": (
        "",
        "how old what was applied was; with servers: updates of the centre between reading it and applying what was computed with it; "
        "in gossip: steps since this rank asked for the model that it mixed in or, where another rank sent its model unasked "
        "(push, push-sum, the side of a pair that answers), how many steps fewer the sender had done when it sent it, at least 0; "
        "of several in one step the oldest; 0 where nothing of others was applied",
    ),
    "weight": ("", "what this rank's parameters count for in push-sum gossip; 1 elsewhere"),
    "bytes_sent": ("bytes", "payload sent by this rank in this step"),
    "bytes_received": ("bytes", "payload received by this rank in this step"),
    "messages_sent": ("messages", "messages sent by this rank in this step"),
    "gradient_norm": ("", "Euclidean norm of the gradient that was applied; NaN where it was not sampled"),
    "sketch": ("", "seeded count-sketch of the parameters after the step; NaN where it was not sampled"),
    "kind": ("", "what was done in the span"),
    "exchange": ("", "number of the exchange, the same on all ranks"),
    "peer": ("", "rank at the other end, -1 for all; of a server's update the worker that has sent it"),
    "bytes": ("bytes", "payload sent to the peer"),
    "messages": ("messages", "messages sent to the peer"),
    "update": ("", "number of the update of the centre, from 0; the same for all that were applied as one"),
    "clock": ("updates", "how many updates of that worker were applied, this one included"),
    "busy_seconds": ("s", "time since the update before in which the server did not wait"),
    "drift": ("", "Euclidean distance of a worker's parameters from the mean of the workers, told from sketches"),
    "error": ("", "standard error of that distance"),
    "accuracy": ("", "share of the validation samples classified correctly, 0 to 1"),
    "seconds": ("s", "when, since the start of the run"),
}
"""Column -> (unit, definition); read by frames, plots, exports and the documentation."""
