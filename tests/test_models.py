from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from workbench import models

DIGITS, PHOTOS = (1, 8, 8), (3, 32, 32)


@dataclass(frozen=True)
class Facts:
    input_shape: tuple[int, ...] | None = DIGITS
    classes: int | None = 10


def user_model(input_shape: tuple[int, ...], classes: int, depth: int = 1) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *(nn.Identity() for _ in range(depth)), nn.Linear(torch.Size(input_shape).numel(), classes))


def blind_model(width: int = 3) -> nn.Module:
    return nn.Linear(width, 2)


def needy_model(width: int) -> nn.Module:
    return nn.Linear(width, 2)


def empty_model() -> nn.Module:
    return nn.ReLU()


def not_a_model() -> int:
    return 3


HERE = __name__


@pytest.mark.parametrize("shape", [DIGITS, PHOTOS])
@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_is_made_by_its_defaults_and_learns(name: str, shape: tuple[int, ...]) -> None:
    net = models.build(name, {}, Facts(shape), seed=0)
    logits = net(torch.zeros(2, *shape))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_the_seed_alone_decides_the_initial_parameters(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (list(models.build(name, {}, Facts(), seed=s).parameters()) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "parameters"), [("mlp", {}, 64 * 64 + 64 + 640 + 10), ("mlp", {"hidden": []}, 650), ("resnet20", {}, 269_434)]
)
def test_number_of_parameters(name: str, options: dict[str, object], parameters: int) -> None:
    assert sum(p.numel() for p in models.build(name, options, Facts(), seed=0).parameters()) == parameters


def test_resnet20_has_twenty_layers_with_weights() -> None:
    net = models.build("resnet20", {}, Facts(PHOTOS), seed=0)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules()) == 20


def test_a_users_model_gets_the_facts_it_has_parameters_for() -> None:
    assert models.build(f"{HERE}:user_model", {"depth": 2}, Facts(), seed=0)(torch.zeros(1, *DIGITS)).shape == (1, 10)
    assert models.build(f"{HERE}:blind_model", {"width": 7}, Facts(None, None), seed=0)(torch.zeros(1, 7)).shape == (1, 2)


@pytest.mark.parametrize(
    ("model", "options", "facts", "words"),
    [
        ("mpl", {}, Facts(), "unknown model 'mpl'; did you mean 'mlp'"),
        ("mlp", {"hiden": [3]}, Facts(), "MLP has no field 'hiden'; did you mean 'hidden'"),
        ("mlp", {"hidden": [0]}, Facts(), "whole numbers of at least 1"),
        ("mlp", {"hidden": 3}, Facts(), "whole numbers of at least 1, got 3"),
        ("mlp", {}, Facts(None), "needs input_shape and classes"),
        ("cnn", {}, Facts((64,)), r"needs images \(channels, height, width\) of at least 4x4, got input_shape \(64,\)"),
        ("cnn", {"channels": [4, 4, 4, 4]}, Facts(), "at least 16x16"),
        ("resnet20", {"width": 0}, Facts(), "width must be a whole number of at least 1, got 0"),
        (f"{HERE}:user_mdel", {}, Facts(), "has no callable 'user_mdel'; did you mean 'user_model'"),
        (f"{HERE}:user_model", {"dept": 1}, Facts(), "has no option 'dept'; did you mean 'depth'"),
        (f"{HERE}:needy_model", {}, Facts(), "needs 'width'; give it in model_options"),
        (f"{HERE}:empty_model", {}, Facts(), "a model without parameters"),
        (f"{HERE}:not_a_model", {}, Facts(), "must return a torch.nn.Module, got int"),
        (f"{HERE}:HERE", {}, Facts(), "must name a function or a class, got str"),
        ("no_such_module_here:net", {}, Facts(), "no module named 'no_such_module_here'"),
        ("two words:net", {}, Facts(), 'must read "package.module:callable"'),
        ("__main__:Net", {}, Facts(), "%%writefile net.py"),
    ],
)
def test_wrong_choices_are_named(model: str, options: dict[str, object], facts: Facts, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.build(model, options, facts, seed=0)
