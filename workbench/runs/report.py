"""A run as one HTML file that needs nothing else: no server, no internet, no other file."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from workbench.errors import RunFolderDamaged
from workbench.runs.apart import sent_by
from workbench.runs.figures import definition, times
from workbench.runs.page import page, placed, plots_of, write_page
from workbench.store import Rows, read_json

if TYPE_CHECKING:
    from workbench.runs.run import Run

NEWEST_EVENTS: Final = 200
LINES: Final = 1_000


def write_report(run: Run, path: Path) -> Path:
    """Write the report of a run, whole or not at all; the path. RunFolderDamaged, OSError."""
    return write_page(path, render_report(run))


def render_report(run: Run) -> str:
    """The HTML of a report; every value from the run is escaped."""
    steps, validation, events = run.table("steps"), run.table("validation"), run.events()
    figures = run.summary()
    parts = []
    if run.error:
        parts.append(f'<div class="bad"><b>Failed</b><pre>{html.escape(_error_words(run.error))}</pre></div>')
    rows = [(name.replace("_", " "), "; ".join(lines), definition(name)) for name, lines in figures.lines() if name != "layers"]
    parts += ["<h2>Figures</h2>", _table(["figure", "value", "what it is"], rows, numbers=(), small=(2,))]
    if figures["layers"]:
        parts += ["<h2>Layers</h2>", _table(["parameter", definition("layers")], figures["layers"].items(), numbers=())]
    plots = plots_of(run) if len(steps) else {}
    if plots:
        parts += ["<h2>Plots</h2>", *(placed(name) for name in plots)]
        parts += ["<h2>Ranks</h2>", _frame_table(ranks_frame(steps, run.table("traffic")))]
    if len(server := run.table("server")):
        parts += ["<h2>Servers</h2>", _frame_table(servers_frame(server))]
    if len(validation):
        parts += ["<h2>Validation</h2>", _frame_table(run.validation())]
    if len(events):
        shown_events = events.tail(NEWEST_EVENTS)
        parts += ["<h2>Events</h2>", _frame_table(_told(shown_events))]
        if len(events) > len(shown_events):
            parts.append(f"<p>The newest {len(shown_events)} of {len(events)}; the others are in events.jsonl.</p>")
    for heading, name in (("Job", "job.json"), ("Environment", "cluster.json")):
        parts += [f"<h2>{heading}</h2>", _json(run.folder / name)]
    return page(f"{run.folder.name}: {figures['status']}", parts, plots)


def ranks_frame(steps: Rows, traffic: Rows) -> pd.DataFrame:
    """One row per rank: steps, samples, samples per second while it stepped, milliseconds per step by phase, bytes per step."""
    took, sent = times(steps), sent_by(steps, traffic)
    rows = []
    for rank in np.unique(steps["rank"]).tolist():
        mine = steps["rank"] == rank
        own, seconds = steps[mine], float(took[mine].sum())
        phases = {f"{name} ms": 1e3 * float(own[f"{name}_seconds"].mean(dtype=float)) for name in ("load", "compute", "update", "exchange", "hidden")}
        samples = int(own["samples"].sum(dtype=np.int64))
        rate = samples / seconds if seconds > 0 else float("nan")
        rows.append({"rank": rank, "steps": len(own), "samples": samples, "samples/s": rate, **phases, "bytes sent per step": sent[rank] / len(own)})
    return pd.DataFrame(rows)


def servers_frame(server: Rows) -> pd.DataFrame:
    """One row per server: what it has applied, how stale that was, and how long it worked on each."""
    rows = []
    for rank in np.unique(server["rank"]).tolist():
        own = server[server["rank"] == rank]
        ages, busy = own["staleness"], 1e3 * float(own["busy_seconds"].mean(dtype=float))
        updates, mean = len(np.unique(own["update"])), float(ages.mean(dtype=float))
        rows.append({"rank": rank, "updates": updates, "applied": len(own), "staleness": mean, "stalest": float(ages.max()), "busy ms": busy})
    return pd.DataFrame(rows)


def _error_words(error: Mapping[str, Any]) -> str:
    host, device = error.get("host") or "an unknown host", error.get("device") or "unknown device"
    place = f"rank {error.get('rank')} on {host} ({device}), step {error.get('step')}\n" if int(error.get("rank", -1)) >= 0 else ""
    return f"{place}{error.get('where', '')}\n{error.get('traceback', '')}".strip()


def _told(events: pd.DataFrame) -> pd.DataFrame:
    """Events with what only some kinds have in one column."""
    common = ["seconds", "kind", "rank", "step"]
    rest = events[[name for name in events.columns if name not in common]]
    words = [
        ", ".join(f"{str(name).replace('_', ' ')} {_cut(value)}" for name, value in row.items() if value is not None and name != "traceback")
        for row in rest.to_dict("records")
    ]
    return events[common].assign(details=words)


def _cut(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 300 else text[:300] + " ..."


def _frame_table(frame: pd.DataFrame) -> str:
    numbers = [place for place, name in enumerate(frame.columns) if pd.api.types.is_numeric_dtype(frame[name])]
    left_out = len(frame) - LINES
    more = f"<p>{left_out} lines in between are left out.</p>" if left_out > 0 else ""
    kept = frame if left_out <= 0 else pd.concat([frame.head(LINES // 2), frame.tail(LINES // 2)])
    table = _table([str(name).replace("_", " ") for name in frame.columns], kept.itertuples(index=False), numbers)
    return f'<div class="long">{table}</div>{more}'


def _table(names: Iterable[str], rows: Iterable[Iterable[Any]], numbers: Iterable[int], small: Iterable[int] = ()) -> str:
    classes = {**dict.fromkeys(numbers, ' class="number"'), **dict.fromkeys(small, ' class="small"')}

    def line(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}{classes.get(place, '')}>{html.escape(_cut(cell))}</{tag}>" for place, cell in enumerate(cells)) + "</tr>"

    return f"<table>{line(names, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _json(path: Path) -> str:
    try:
        text = json.dumps(read_json(path), indent=2)
    except FileNotFoundError:
        return f"<p>There is no {html.escape(path.name)}.</p>"
    except RunFolderDamaged as error:
        text = str(error)
    return f"<pre>{html.escape(text)}</pre>"
