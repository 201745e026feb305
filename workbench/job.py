"""A job: the frozen description of a training. It is checked when it is made and becomes JSON and back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast, final

from workbench import data as datasets
from workbench import models
from workbench.callables import check_path, modules_under, path_of
from workbench.faults import FAULTS, Fault, Slow
from workbench.frozen import frozen, thawed
from workbench.options import Options, option, shown, unknown_name
from workbench.strategies import STRATEGIES, Synchronous
from workbench.strategies.base import Strategy

CHANGEABLE: Final = ("learning_rate", "momentum", "weight_decay")
"""The fields that `run.change` can change while a run goes on."""


@final
@dataclass(frozen=True)
class Job(Options):
    """What is trained, on what, for how long, and how the ranks exchange what they learn.

    `model`, `data` and `loss` are names or "package.module:callable"; a function or class of a module may be given
    itself and is kept by its name. Steps count from 0. Its options are frozen too: a job can be hashed, and what was
    checked stays as it is. `slow` is for short: it becomes `faults`, and is empty then.
    """

    model: str = option("mlp", group="model", help='mlp, cnn, resnet20 or "package.module:callable" that returns an nn.Module')
    model_options: dict[str, Any] = option({}, group="model", help="keywords for the model")
    data: str = option("digits", group="data", help='digits, synthetic-images or "package.module:callable" that returns (train, validation)')
    data_options: dict[str, Any] = option({}, group="data", help="keywords for the data")
    epochs: int | None = option(None, minimum=1, group="length", help="passes over the training data; 1 if no steps are given either")
    steps: int | None = option(None, minimum=1, group="length", help="mini-batches per worker, instead of epochs")
    batch_size: int = option(32, minimum=1, unit="samples", group="length", help="samples of a mini-batch on each worker")
    learning_rate: float = option(0.1, minimum=0, step=0.01, group="optimizer", help="step size")
    momentum: float = option(0.9, minimum=0, maximum=1, step=0.05, group="optimizer", help="share of the last update that is kept")
    weight_decay: float = option(0.0, minimum=0, step=1e-4, group="optimizer", help="pull of every parameter towards zero (L2)")
    loss: str = option("cross-entropy", group="optimizer", help='cross-entropy or "package.module:callable": (model, batch) -> (loss, metrics)')
    seed: int = option(0, minimum=0, maximum=2**32 - 1, group="optimizer", help="of the initial parameters, the split and the order of the samples")
    strategy: Strategy = option(Synchronous(), table=STRATEGIES, group="exchange", help="when the ranks talk and what they agree on")
    faults: tuple[Fault, ...] = option((), table=FAULTS, group="faults", help="what goes wrong on which worker, for teaching")
    slow: dict[int, float] = option({}, group="faults", help='workers that are slower, {rank: factor} for short: {"3": 4} is the fault Slow(3, 4.0)')

    def __post_init__(self) -> None:
        for name in ("model", "data", "loss"):
            given = getattr(self, name)
            if callable(given):
                object.__setattr__(self, name, path_of(name, given))
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"Job(epochs={self.epochs}, steps={self.steps}): give epochs or steps, not both")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", 1)
        models.check(self.model, self.model_options)
        datasets.check(self.data, self.data_options)
        if ":" in self.loss:
            check_path("loss", self.loss)
        elif self.loss != "cross-entropy":
            raise ValueError(unknown_name("loss", self.loss, ["cross-entropy"]) + ', or "package.module:callable"')
        for name in ("model_options", "data_options"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        object.__setattr__(self, "faults", (*self.faults, *_slow(self.slow)))
        object.__setattr__(self, "slow", frozen({}))
        for rank, times in Counter(fault.rank for fault in self.faults if isinstance(fault, Slow)).items():
            if times > 1:
                raise ValueError(
                    f"Job(faults={self.faults}): rank {rank} has {times} faults of the kind slow; give it one, with a factor and seconds"
                )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a job from a JSON file, or from the folder of a run; ValueError names the file and what is wrong with it."""
        file = Path(path) / "job.json" if Path(path).is_dir() else Path(path)
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise ValueError(f"there is no job file {file}") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} is not a JSON file: {error}") from error
        except RecursionError as error:
            raise ValueError(f"{file} is nested too deeply to be a job") from error
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write the job as a JSON file, whole or not at all, for `workbench train` or `load`; its path. ValueError for a folder; OSError."""
        from workbench.store.folder import write_json

        file = Path(path)
        if file.is_dir():
            raise ValueError(f"{file} is a folder; name the file in it: {file / 'job.json'}")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, self.to_json())
        return file

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The job that `to_json` wrote; the `modules` of a run folder's job.json are passed over."""
        if isinstance(data, Mapping):
            data = {name: value for name, value in data.items() if name != "modules"}
        return super().from_json(data)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values that the caller may change; the strategy and its parts become {"kind": name, ...}."""
        return cast("dict[str, Any]", thawed(super().to_json()))

    def replace(self, **changes: Any) -> Self:
        """The same job with some fields changed; new `steps` take the place of `epochs` and the other way round, `slow` that of all `Slow` faults."""
        for length, other in (("epochs", "steps"), ("steps", "epochs")):
            if changes.get(length) is not None:
                changes.setdefault(other, None)
        if "slow" in changes:
            changes.setdefault("faults", tuple(fault for fault in self.faults if not isinstance(fault, Slow)))
        return super().replace(**changes)

    def check(self, ranks: int) -> None:
        """ValueError when the job does not fit that many ranks: the strategy, a fault, or the batch and the shard of built-in data."""
        if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
            raise ValueError(f"ranks must be a whole number of at least 1, got {ranks!r}")
        self.strategy.check(ranks)
        workers = self.strategy.roles(ranks).count("worker")  # servers are the last ranks
        for fault in self.faults:
            if fault.rank >= workers:
                allowed = f"from 0 to {workers - 1}" if workers > 1 else "0"
                what = "is a server" if fault.rank < ranks else "does not exist"
                raise ValueError(f"Job(faults=({fault},)): rank must be that of a worker, {allowed}, got {fault.rank}, which {what}")
        sizes = datasets.sizes(self.data, self.data_options)
        if sizes is not None:
            datasets.check_batch(self.batch_size, sizes.train, workers, self.data)

    def modules(self, folder: str | Path) -> dict[str, str]:
        """Module -> SHA-256 of its file, for the user's modules under `folder` that this job needs."""
        return modules_under(Path(folder), [path for path in (self.model, self.data, self.loss, *self.strategy.callables) if ":" in path])


def _slow(factors: Mapping[Any, float]) -> tuple[Slow, ...]:
    """Rank -> factor as faults; ranks may be strings of digits, as in JSON."""
    try:
        return tuple(Slow(int(rank) if str(rank).isdecimal() else rank, factor) for rank, factor in factors.items())
    except ValueError as error:
        raise ValueError(f"Job(slow={shown(factors)}): {error}") from error


def _plain(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A frozen copy, as JSON would give it back (tuples become lists); ValueError for what JSON cannot hold."""
    try:
        return cast("dict[str, Any]", frozen(json.loads(json.dumps(options, allow_nan=False))))
    except RecursionError as error:
        raise ValueError(f"Job({name}={shown(options)}): {name} must hold plain JSON values, nested less deeply") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"Job({name}={shown(options)}): {name} must hold plain JSON values, {error}") from error
