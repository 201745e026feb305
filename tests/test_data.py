from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, Subset, TensorDataset

from workbench import data

HERE = __name__


class Squares(Dataset[tuple[torch.Tensor, int]]):
    classes = ("even", "odd")

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(i), float(i * i)]), i % 2


def squares(seed: int, n: int = 10) -> tuple[Squares, Squares]:
    return Squares(n + seed), Squares(4)


def empty() -> tuple[Squares, Squares]:
    return Squares(0), Squares(4)


def alone() -> Squares:
    return Squares(3)


def lists() -> tuple[Any, Any]:
    return iter([1, 2]), iter([3])


@pytest.mark.parametrize("name", data.DATA)
def test_built_in_data_is_what_it_declares(name: str) -> None:
    split = data.load(name, {}, seed=0)
    assert (len(split.train), len(split.validation)) == data.sizes(name, {})
    inputs, target = split.train[0]
    assert inputs.shape == split.input_shape
    assert inputs.dtype == torch.float32
    assert target.dtype == torch.int64
    assert split.train.tensors[1].unique().tolist() == list(range(split.classes or 0))


@pytest.mark.parametrize("name", data.DATA)
def test_the_seed_alone_decides_the_data(name: str) -> None:
    first, again, other = (data.load(name, {}, seed=s).train.tensors[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_digits_are_real_standardised_by_the_training_split_and_split_without_overlap() -> None:
    split = data.load("digits", {}, seed=0)
    train = split.train.tensors[0].double()
    assert (len(split.train), len(split.validation)) == (1437, 360)
    assert abs(train.mean()) < 1e-6
    assert abs(train.std(correction=0) - 1) < 1e-6
    pixels, labels = load_digits(return_X_y=True)
    order = np.concatenate([split.train.tensors[1].numpy(), split.validation.tensors[1].numpy()])
    assert np.array_equal(np.bincount(order), np.bincount(labels))
    # undo the standardisation: the multiset of images is the one of scikit-learn
    both = torch.cat([split.train.tensors[0], split.validation.tensors[0]]).numpy().reshape(-1, 64).astype(np.float64)
    scale = 16 / (both.max() - both.min())
    restored = np.rint((both - both.min()) * scale)
    assert np.array_equal(np.array(sorted(map(tuple, restored))), np.array(sorted(map(tuple, pixels))))


def test_synthetic_images_can_be_learned() -> None:
    split = data.load("synthetic-images", {"shape": [1, 8, 8], "n": 500, "classes": 4, "noise": 1}, seed=0)
    (x, y), (vx, vy) = split.train.tensors, split.validation.tensors
    means = torch.stack([x[y == c].mean(dim=0) for c in range(4)])
    nearest = (vx[:, None] - means).square().sum(dim=(2, 3, 4)).argmin(dim=1)
    assert (nearest == vy).float().mean() > 0.95


def test_a_users_data() -> None:
    split = data.load(f"{HERE}:squares", {"n": 5}, seed=2)
    assert (len(split.train), len(split.validation)) == (7, 4)
    assert split.input_shape == (2,)
    assert split.classes == 2
    assert data.sizes(f"{HERE}:squares", {}) is None


def test_declared_facts_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "input_shape", [1, 2], raising=False)
    monkeypatch.setattr(squares, "classes", 7, raising=False)
    split = data.load(f"{HERE}:squares", {}, seed=0)
    assert split.input_shape == (1, 2)
    assert split.classes == 7


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("digit", {}, "unknown data 'digit'; did you mean 'digits'"),
        ("digits", {"n": 3}, "Digits has no field 'n'"),
        ("synthetic-images", {"m": 3}, "SyntheticImages has no field 'm'"),
        ("synthetic-images", {"classes": 1}, "classes must be a whole number of at least 2, got 1"),
        ("synthetic-images", {"shape": [3, 0]}, "whole numbers of at least 1"),
        (f"{HERE}:squares", {"m": 3}, "has no option 'm'"),
        (f"{HERE}:empty", {}, "the train set is empty"),
        (f"{HERE}:alone", {}, r"must return two datasets \(train, validation\), got Squares"),
        (f"{HERE}:lists", {}, "must have a length and samples by index"),
    ],
)
def test_wrong_choices_are_named(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.load(name, options, seed=0)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("length", "batch"), [(1437, 32), (100, 5), (28, 4), (29, 1)])
def test_workers_together_see_what_one_worker_with_the_whole_batch_sees(length: int, batch: int, workers: int) -> None:
    shards = [data.Shards(length, workers, w, batch, seed=5) for w in range(workers)]
    whole = data.Shards(length, 1, 0, batch * workers, seed=5)
    assert {s.steps_per_epoch for s in shards} == {whole.steps_per_epoch}
    assert {s.dropped for s in shards} == {length - whole.steps_per_epoch * batch * workers}
    for epoch in (0, 3):
        parts = [s.indices(epoch) for s in shards]
        assert all(p.shape == (whole.steps_per_epoch, batch) for p in parts)
        together = torch.stack(parts, dim=2).reshape(whole.steps_per_epoch, batch * workers)
        assert torch.equal(together, whole.indices(epoch))
        assert len(together.unique()) == together.numel()
    assert not torch.equal(whole.indices(0), whole.indices(3))


@pytest.mark.parametrize(
    ("batch", "length", "workers", "words"),
    [
        (512, 1437, 4, r"Job\(batch_size=512\): 4 workers share 1437 training samples of 'digits', 359 each; batch_size may be 1 to 359"),
        (11, 10, 1, "1 worker has 10 training samples of 'digits', 10 each; batch_size may be 1 to 10"),
        (1, 3, 4, "there may be 1 to 3 workers"),
    ],
)
def test_a_batch_that_no_shard_holds(batch: int, length: int, workers: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.Shards(length, workers, 0, batch, seed=0, data="digits")


def test_gather_is_the_same_for_tensors_subsets_and_any_dataset() -> None:
    plain = Squares(9)
    tensors = TensorDataset(torch.stack([plain[i][0] for i in range(9)]), torch.tensor([i % 2 for i in range(9)]))
    indices = torch.tensor([4, 0, 4, 7])
    for dataset in (plain, tensors):
        inputs, targets = data.gather(dataset, indices)
        assert inputs.tolist() == [[4, 16], [0, 0], [4, 16], [7, 49]]
        assert targets.tolist() == [0, 0, 0, 1]
        assert isinstance(data.gather(dataset, indices), tuple)
    inputs, _ = data.gather(Subset(tensors, [8, 3, 1]), torch.tensor([1, 2]))
    assert inputs[:, 0].tolist() == [3, 1]
