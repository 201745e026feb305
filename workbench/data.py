"""On what is trained: the table of built-in data, the user's own, and how an epoch is cut into the mini-batches of the workers.

Importing this module does not import torch, so that a job can be checked without it.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from workbench.callables import call, check_path, load_path
from workbench.models import check_counts
from workbench.options import Options, option, unknown_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Two map-style datasets, and what a model needs to know of their samples."""

    train: Any
    validation: Any
    input_shape: tuple[int, ...] | None
    classes: int | None


class Sizes(NamedTuple):
    """Samples in the training and in the validation set."""

    train: int
    validation: int


class Data(Options, ABC):
    """Built-in data: a value whose fields are its options."""

    @property
    @abstractmethod
    def sizes(self) -> Sizes:
        """How many samples there will be, known without loading them."""

    @abstractmethod
    def load(self, seed: int) -> Split:
        """The datasets, the same for the same seed."""


@final
@dataclass(frozen=True)
class Digits(Data):
    """1797 real handwritten digits of 8x8 pixels, as they ship with scikit-learn (Alpaydin and Kaynak, 1998)."""

    @property
    def sizes(self) -> Sizes:
        """1437 to train on, 360 to validate."""
        return Sizes(1437, 360)

    def load(self, seed: int) -> Split:
        """Split by the seed, standardised by mean and deviation of the training pixels; inputs (1, 8, 8) float32."""
        import torch
        from torch.utils.data import TensorDataset

        pixels, labels = _digits()
        order = np.random.default_rng([seed, 1797]).permutation(len(labels))
        training, validating = order[: self.sizes.train], order[self.sizes.train :]
        mean, deviation = pixels[training].mean(), pixels[training].std()
        inputs = torch.from_numpy(((pixels - mean) / deviation).astype(np.float32).reshape(-1, 1, 8, 8))
        targets = torch.from_numpy(labels.astype(np.int64))
        return Split(
            train=TensorDataset(inputs[training], targets[training]),
            validation=TensorDataset(inputs[validating], targets[validating]),
            input_shape=(1, 8, 8),
            classes=10,
        )


@final
@dataclass(frozen=True)
class SyntheticImages(Data):
    """Generated images that can be learned: a pattern of coarse random patches per class, covered with noise."""

    shape: tuple[int, ...] = option((3, 32, 32), unit="pixels", help="channels, height and width of an image")
    classes: int = option(10, minimum=2, help="number of classes")
    n: int = option(2000, minimum=1, unit="samples", help="training samples; a quarter as many validate")
    noise: float = option(2.0, minimum=0, help="standard deviation of the noise; that of the patterns is 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts("SyntheticImages", "shape", self.shape, at_least=1)

    @property
    def sizes(self) -> Sizes:
        """n to train on, a quarter as many (at least one) to validate."""
        return Sizes(self.n, max(1, self.n // 4))

    def load(self, seed: int) -> Split:
        """Generate them; inputs (*shape) float32."""
        import torch
        from torch.utils.data import TensorDataset

        random = np.random.default_rng([seed, *self.shape, self.classes])
        patterns = random.standard_normal((self.classes, *self.shape), dtype=np.float32)
        for axis, pixels in enumerate(self.shape[-2:], start=-min(2, len(self.shape))):
            # patches of a quarter of the side, so that convolutions find something to hold on to
            patterns = patterns.take(np.arange(pixels) // max(1, pixels // 4), axis=axis)
        labels = random.integers(self.classes, size=sum(self.sizes))
        images = random.standard_normal((len(labels), *self.shape), dtype=np.float32)
        images *= self.noise
        for image, label in zip(images, labels, strict=True):
            image += patterns[label]
        inputs, targets = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
        return Split(
            train=TensorDataset(inputs[: self.n], targets[: self.n]),
            validation=TensorDataset(inputs[self.n :], targets[self.n :]),
            input_shape=self.shape,
            classes=self.classes,
        )


DATA: Final[Mapping[str, type[Data]]] = {"digits": Digits, "synthetic-images": SyntheticImages}


def check(data: str, options: Mapping[str, Any]) -> None:
    """ValueError for a name that is in no table, or an option the built-in data does not have. Imports no user code."""
    if ":" in data:
        check_path("data", data)
    elif data not in DATA:
        raise ValueError(unknown_name("data", data, DATA) + ', or "package.module:callable"')
    else:
        DATA[data].from_json(options)


def sizes(data: str, options: Mapping[str, Any]) -> Sizes | None:
    """How many samples built-in data has; None for the user's own, which must be loaded first."""
    return DATA[data].from_json(options).sizes if data in DATA else None


def load(data: str, options: Mapping[str, Any], seed: int) -> Split:
    """The data of a job, the same on every rank.

    `data` is a name of `DATA` or "package.module:callable". A user's callable gets the options, and `seed` where it
    has such a parameter; it returns (train, validation), two map-style datasets. `input_shape` and `classes` may be
    attributes of the callable or of the training set; a shape that is not declared is read off the first sample.
    """
    check(data, options)
    if data in DATA:
        return DATA[data].from_json(options).load(seed)
    function = load_path("data", data)
    made = call("data", data, function, options, {"seed": seed})
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise ValueError(f"data {data!r} must return two datasets (train, validation), got {type(made).__name__}")
    train, validation = made
    for name, dataset in (("train", train), ("validation", validation)):
        if not (hasattr(dataset, "__getitem__") and isinstance(dataset, Sized)):
            raise ValueError(f"data {data!r}: the {name} set must have a length and samples by index, got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise ValueError(f"data {data!r}: the {name} set is empty")
    shape = getattr(function, "input_shape", None) or getattr(train, "input_shape", None) or _shape_of(train[0])
    classes = getattr(function, "classes", None) or getattr(train, "classes", None)
    if isinstance(classes, Sized):
        classes = len(classes)  # torchvision's datasets list the names of their classes
    return Split(train, validation, None if shape is None else tuple(shape), classes)


class Shards:
    """Which samples each worker sees, and in which order.

    The permutation of an epoch (the same on every worker) is cut into global batches of W*b samples; worker w takes
    every W-th of each, starting with the w-th. So W workers with batch b see what one with batch W*b sees. An
    incomplete global batch at the end is dropped; `dropped` counts its samples.
    """

    def __init__(self, length: int, workers: int, index: int, batch_size: int, seed: int, data: str = "") -> None:
        check_batch(batch_size, length, workers, data)
        self.length, self.workers, self.index, self.batch_size, self.seed = length, workers, index, batch_size, seed
        self.steps_per_epoch = length // (workers * batch_size)
        self.dropped = length - self.steps_per_epoch * workers * batch_size

    def indices(self, epoch: int) -> Tensor:
        """The samples of this worker in an epoch: int64, shape (steps_per_epoch, batch_size)."""
        import torch

        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        rounds = order[: self.length - self.dropped].reshape(self.steps_per_epoch, self.workers * self.batch_size)
        return torch.from_numpy(np.ascontiguousarray(rounds[:, self.index :: self.workers]))


def gather(dataset: Any, indices: Tensor) -> Any:
    """The samples at `indices` (int64, shape (b,)) as one batch: a tuple of tensors of length b, as a rule (inputs, targets)."""
    from torch.utils.data import Subset, TensorDataset, default_collate

    if isinstance(dataset, TensorDataset):
        return tuple(tensor.index_select(0, indices) for tensor in dataset.tensors)
    if isinstance(dataset, Subset):
        return gather(dataset.dataset, indices.new_tensor([dataset.indices[i] for i in indices.tolist()]))
    batch = default_collate([dataset[i] for i in indices.tolist()])
    return tuple(batch) if isinstance(batch, list) else batch


def check_batch(batch_size: int, length: int, workers: int, data: str = "") -> None:
    """ValueError when a worker's share of the training set holds no whole batch."""
    share = length // workers
    if batch_size > share:
        of = f" of {data!r}" if data else ""
        allowed = f"batch_size may be 1 to {share}" if share else f"there may be 1 to {length} workers"
        who = "1 worker has" if workers == 1 else f"{workers} workers share"
        raise ValueError(f"Job(batch_size={batch_size}): {who} {length} training samples{of}, {share} each; {allowed}")


def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Pixels (1797, 64) from 0 to 16, and labels (1797,)."""
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if spec else None
    if file is not None and file.is_file():
        # the very file that load_digits reads; importing scikit-learn and SciPy would cost every rank a second
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


def _shape_of(sample: Any) -> tuple[int, ...] | None:
    first = sample[0] if isinstance(sample, (tuple, list)) and sample else sample
    shape = getattr(first, "shape", None)
    return None if shape is None else tuple(shape)
