"""The figures of a run, each with its definition and its unit: what `progress` and `summary` say."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from workbench.runs.apart import counts_in, drift_words, sent_by, staleness_of, updates_of
from workbench.runs.faults import faults_in
from workbench.runs.strategy import is_lockstep, servers_in, strategy_words
from workbench.store import Rows
from workbench.telemetry import PHASES, SERVER, TRAFFIC

NO_SERVER: Final[Rows] = np.empty(0, SERVER)
NO_TRAFFIC: Final[Rows] = np.empty(0, TRAFFIC)

FIGURES: Final = {
    "status": ("", "how the run stands, or how it ended"),
    "strategy": ("", "the exchange strategy"),
    "faults": ("", "what was made to go wrong, on which worker"),
    "model": ("", "what is trained"),
    "data": ("", "on what it is trained"),
    "ranks": ("", "workers that have recorded a step"),
    "servers": ("", "ranks that keep a centre and train nothing"),
    "steps": ("steps", "mini-batches of the worker that has done most"),
    "epochs": ("", "passes over the training data, completed or begun"),
    "samples": ("samples", "samples of all steps of all ranks"),
    "dropped_samples": ("samples", "samples of an epoch that no worker sees, because they fill no global batch"),
    "wall_seconds": (
        "s",
        "from the start of the first step to the end of the last one, pauses and validations included; "
        "all workers do the same number of steps, so beside a straggler it includes the end, in which only that one trains",
    ),
    "training_seconds": ("s", "time in which at least one rank was in a step: pauses and validations left out, the end of a straggler not"),
    "samples_per_second": ("samples/s", "samples over training_seconds, so beside a straggler also of the end, in which only that one trains"),
    "exchange_share": ("%", "share of the time of all steps in which training was blocked by communication"),
    "hidden_share": (
        "%",
        "hidden_seconds over hidden_seconds and exchange_seconds together: share of the time of communication in which training was not blocked",
    ),
    "bytes_per_step": ("bytes", "payload that a worker sends per step, on average; once it has ended, with what it sends after its last step"),
    "updates": ("updates", "updates of the centre; what servers have applied as one counts once"),
    "updates_per_second": ("updates/s", "updates over training_seconds"),
    "staleness": (
        "",
        "how old what was applied was: with servers, updates of the centre between reading and applying, over all that was applied; "
        "without, over the steps where it was above 0: steps since the model that was mixed in was asked for or, where another rank sent it "
        "unasked (push, push-sum, the side of a pair that answers), how many steps fewer the sender had done",
    ),
    "drift": ("", "Euclidean distance of a worker's parameters from the mean of the workers, on average over the workers, and its standard error"),
    "counts": ("", "what has happened how often, on all ranks together; told at the end of a run"),
    "layers": ("", "what the strategy has decided for which layer, with what a worker sends of it"),
    "loss": ("", "mean loss of the last step of each rank"),
    "validation_loss": ("", "loss of the answer model on the validation set"),
    "accuracy": ("%", "share of the validation samples that the answer model classifies correctly"),
    "explained_share": ("%", "share of the time from step to step that the recorded phases explain; validations and pauses left out"),
    "lost_rows": ("rows", "records that neither the ranks nor the disk had any more"),
    "damage": ("", "what of the folder could not be read and was left out"),
    "folder": ("", "where the records are"),
}
"""Figure -> (unit, definition). A share or an accuracy is a number from 0 to 1; it is shown in %."""


NOT_OF_EVERY_RUN: Final = ("faults", "servers", "updates", "updates_per_second")
"""Figures that are only shown where there is something to say."""


class Figures(dict[str, Any]):
    """A dict of figures that shows itself as a table. The keys are those of `FIGURES`."""

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:left"'
        rows = ""
        for name, lines in self.lines():
            what, words = html.escape(name.replace("_", " ")), "<br>".join(map(html.escape, lines))
            rows += f'<tr>{cell} title="{html.escape(definition(name))}">{what}</td>{cell}>{words}</td></tr>'
        return f"<table>{rows}</table>"

    def __str__(self) -> str:
        width = max((len(name) for name in self), default=0)
        between = "\n" + " " * (width + 2)
        return "\n".join(f"{name.replace('_', ' '):{width}}  {between.join(lines)}" for name, lines in self.lines())

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """Each figure that has something to say, and its lines: one, or one per entry."""
        for name, value in self.items():
            lines = [f"{each}: {shown('', words)}" for each, words in value.items()] if isinstance(value, Mapping) else [shown(name, value)]
            if lines and (value or name not in NOT_OF_EVERY_RUN):
                yield name, lines


class Progress(dict[str, Any]):
    """Where a run is; `str` of it is one line."""

    def __str__(self) -> str:
        parts = [str(self["status"])]
        if self["step"]:
            of = f" of {self['steps']:,}" if self["steps"] else ""
            parts.append(f"step {self['step']:,}{of}")
        if self["epoch"] is not None:
            parts.append(f"epoch {self['epoch']}" + (f" of {self['epochs']}" if self["epochs"] else ""))
        for name, words in (
            ("loss", "loss {}"),
            ("samples_per_second", "{}"),
            ("exchange_share", "exchanging {} of the time"),
            ("accuracy", "accuracy {}"),
        ):
            if self[name] is not None:
                parts.append(words.format(shown(name, self[name])))
        return " · ".join(parts)


def definition(name: str) -> str:
    """What a figure is."""
    return FIGURES.get(name, ("", ""))[1]


def shown(name: str, value: Any) -> str:
    """A figure with its unit, as a person reads it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not known"
    unit = FIGURES.get(name, ("", ""))[0]
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "bytes":
        size = float(value)
        for prefix in ("B", "kB", "MB", "GB"):
            if size < 1000 or prefix == "GB":
                return f"{size:.0f} B" if prefix == "B" else f"{size:.1f} {prefix}"
            size /= 1000
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    else:
        text = f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)
    return f"{text} {unit}".rstrip() if unit not in ("steps", "samples", "rows", "updates") else text


def times(rows: Rows) -> Any:
    """Seconds that each step took, (n,): the sum of its phases."""
    return np.sum([rows[f"{phase}_seconds"] for phase in PHASES], axis=0, dtype=np.float64)


def training_seconds(steps: Rows) -> float:
    """Length of the union of the steps' intervals over all ranks: time in which at least one rank was in a step."""
    if not len(steps):
        return 0.0
    steps = steps[np.argsort(steps["start_seconds"], kind="stable")]
    starts = steps["start_seconds"]
    ends = starts + times(steps)
    reached = np.maximum.accumulate(ends)  # by this step and those that began before it
    return float((ends - np.maximum(starts, np.append(starts[0], reached[:-1]))).clip(min=0).sum())


def progress(status: str, job: Mapping[str, Any], events: Iterable[Mapping[str, Any]], steps: Rows, validation: Rows, over: bool = False) -> Progress:
    """Where a run is, from its newest steps: rates and shares are of the last seconds.

    Of a run that is over, `steps` are all of it and so are rates and shares: they are the same as in its summary.
    """
    start: Mapping[str, Any] = next((event for event in events if event["kind"] == "start"), {})
    per_epoch = start.get("steps_per_epoch")
    result = Progress(
        status=status, step=0, steps=start.get("steps") or job.get("steps"), epoch=None, epochs=job.get("epochs"), fraction=0.0, seconds=0.0,
        loss=None, samples_per_second=None, exchange_share=None, accuracy=last_accuracy(validation),
    )  # fmt: skip
    if not len(steps):
        return result
    last = steps[_last_of_each_rank(steps)]
    took = times(steps)
    ends = steps["start_seconds"] + took
    if over:
        rows, rates = steps, _rate(steps)
    else:
        window = ends >= ends.max() - max(2.0, 3 * float(took.max()))
        rows, took = steps[window], took[window]
        # rank by rank: the newest records of one may be here before those of another
        rates = sum(_rate(rows[rows["rank"] == rank]) or 0.0 for rank in np.unique(rows["rank"]).tolist())
    planned, step = result["steps"], int(last["step"].max()) + 1
    result.update(
        step=step,
        epoch=int(last["epoch"].max()) + 1,
        seconds=float(ends.max()),
        loss=float(last["loss"].mean(dtype=np.float64)),
        samples_per_second=rates,
        exchange_share=_share(rows["exchange_seconds"], took),
        fraction=min(1.0, step / planned) if planned else 0.0,
    )
    if result["epochs"] is None and planned and per_epoch:
        result["epochs"] = -(-planned // per_epoch)
    return result


def summary(
    status: str,
    job: Mapping[str, Any],
    events: list[dict[str, Any]],
    steps: Rows,
    validation: Rows,
    lost: int,
    folder: str,
    server: Rows = NO_SERVER,
    traffic: Rows = NO_TRAFFIC,
) -> Figures:
    """The figures of a run as far as it has come; what cannot be told is None."""
    start: Mapping[str, Any] = next((event for event in events if event["kind"] == "start"), {})
    result = Figures(dict.fromkeys(FIGURES))
    strategy = job.get("strategy") or {}
    decided = [event["notes"] for event in events if event["kind"] == "exchange" and isinstance(event.get("notes"), Mapping)]
    result.update(
        status=status,
        strategy=strategy_words(strategy),
        faults=faults_in(job),
        model=job.get("model"),
        data=job.get("data"),
        ranks=len(np.unique(steps["rank"])),
        steps=int(steps["step"].max()) + 1 if len(steps) else 0,
        epochs=int(steps["epoch"].max()) + 1 if len(steps) else 0,
        samples=int(steps["samples"].sum(dtype=np.int64)),
        dropped_samples=start.get("dropped_samples"),
        servers=len(servers_in(events) | set(server["rank"].tolist())),
        updates=updates_of(server),
        staleness=staleness_of(steps, server),
        drift=drift_words(steps, is_lockstep(job)),
        counts=counts_in(events),
        layers=dict(decided[-1]) if decided else {},
        accuracy=last_accuracy(validation),
        validation_loss=_last(validation, "loss"),
        lost_rows=lost,
        folder=folder,
    )
    if len(steps):
        took = times(steps)
        wall = float((steps["start_seconds"] + took).max() - steps["start_seconds"].min())
        result.update(
            wall_seconds=wall,
            training_seconds=(training := training_seconds(steps)),
            updates_per_second=result["updates"] / training if result["updates"] and training > 0 else None,
            samples_per_second=_rate(steps),
            exchange_share=_share(steps["exchange_seconds"], took),
            hidden_share=_share(steps["hidden_seconds"], steps["hidden_seconds"] + steps["exchange_seconds"].astype(np.float64)),
            bytes_per_step=sum(sent_by(steps, traffic).values()) / len(steps),
            loss=float(steps[_last_of_each_rank(steps)]["loss"].mean(dtype=np.float64)),
            explained_share=explained(steps, events),
        )
    return result


def explained(steps: Rows, events: Iterable[Mapping[str, Any]] = ()) -> float | None:
    """Share of the time from the start of a step to the start of the next that its phases explain.

    Left out are steps after which a rank was validated (a new epoch) or paused. None without two steps in a row.
    """
    order = np.lexsort((steps["step"], steps["rank"]))
    rows = steps[order]
    here, there = rows[:-1], rows[1:]
    follows = (here["rank"] == there["rank"]) & (here["step"] + 1 == there["step"]) & (here["epoch"] == there["epoch"])
    for event in events:
        if event["kind"] in ("pause", "resume"):
            follows &= ~((there["rank"] == event.get("rank")) & (there["step"] == event.get("step")))
    wall = (there["start_seconds"] - here["start_seconds"])[follows].sum()
    return float(times(here[follows]).sum() / wall) if wall > 0 else None


def last_accuracy(validation: Rows) -> float | None:
    """The newest accuracy of the answer model (rank -1), else of any rank's own."""
    return _last(validation, "accuracy")


def _last(validation: Rows, column: str) -> float | None:
    if not len(validation):
        return None
    answers = validation[validation["rank"] < 0]
    rows = answers if len(answers) else validation
    return float(rows[int(np.argmax(rows["seconds"]))][column])


def _last_of_each_rank(rows: Rows) -> Any:
    """Index of the row with the highest step of each rank."""
    order = np.lexsort((rows["step"], rows["rank"]))
    ranks = rows["rank"][order]
    return order[np.append(ranks[1:] != ranks[:-1], True)]


def _rate(steps: Rows) -> float | None:
    """Samples per second of training."""
    seconds = training_seconds(steps)
    return float(steps["samples"].sum(dtype=np.int64)) / seconds if seconds > 0 else None


def _share(part: Any, whole: Any) -> float | None:
    total = float(whole.sum())
    return float(part.sum(dtype=np.float64)) / total if total > 0 else None
