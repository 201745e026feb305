"""The arena: layers are views of flat buffers, and gradients stay where exchanges find them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.arena import Arena
from workbench.recipes.sgd import SGD


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def backward(module: nn.Module) -> None:
    torch.manual_seed(2)
    module(torch.randn(6, 5)).square().mean().backward()


def test_layers_are_views_in_the_order_of_backward() -> None:
    module = model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    arena = Arena(module)
    assert list(arena.segments)[:2] == ["3.bias", "3.weight"]  # the last layer is ready first
    assert arena.parameters.numel() == sum(p.numel() for p in module.parameters()) == arena.gradients.numel()
    assert arena.buffers.numel() == 8  # running mean and variance; the counter is an integer
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    arena.parameters.fill_(0.25)
    arena.buffers.fill_(0.5)
    assert all(bool((p == 0.25).all()) for p in module.parameters())
    assert bool((module[1].running_var == 0.5).all())


def test_gradients_land_in_the_flat_buffer() -> None:
    plain, module = model(), model()
    arena = Arena(module)
    backward(plain)
    backward(module)
    expected = {name: p.grad for name, p in plain.named_parameters()}
    for name in expected:
        segment = arena.segments[name]
        assert torch.equal(arena.gradients[segment.start : segment.stop].view(segment.shape), expected[name])
    assert not arena.heal()


def test_gradients_that_user_code_moved_come_back() -> None:
    module = model()
    arena = Arena(module)
    module.zero_grad(set_to_none=True)
    backward(module)
    expected = torch.cat([p.grad.reshape(-1) for p in reversed(list(module.parameters()))])  # type: ignore[union-attr]
    assert arena.heal()
    assert torch.equal(arena.gradients, expected)
    arena.clear()
    module.zero_grad(set_to_none=True)  # and no backward: nothing stale may be left
    assert arena.heal()
    assert not arena.gradients.any()


def test_frozen_and_tied_parameters() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    arena = Arena(module)
    assert arena.parameters.numel() == 16 + 4
    assert arena.state.numel() == 16 + 4 + 4
    module(torch.ones(2, 4)).sum().backward()
    SGD(momentum=0.9, weight_decay=0.1).step(arena, 0.1)
    assert module[1].weight is module[0].weight


def test_models_that_fit_no_arena() -> None:
    with pytest.raises(ValueError, match="Flatten has no parameters to train"):
        Arena(nn.Flatten())
    with pytest.raises(ValueError, match="holds float16, float32; its parameters and buffers must all be float32"):
        Arena(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()))


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01), (0.0, 0.01)])
def test_sgd_is_that_of_torch(momentum: float, decay: float) -> None:
    plain, module = model(), model()
    arena = Arena(module)
    ours, theirs = SGD(momentum, decay), torch.optim.SGD(plain.parameters(), 0.1, momentum=momentum, weight_decay=decay)
    for _ in range(5):
        theirs.zero_grad()
        backward(plain)
        theirs.step()
        arena.clear()
        backward(module)
        ours.step(arena, 0.1)
    for mine, other in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_tensors_that_user_code_moved_come_back() -> None:
    module = model()
    arena = Arena(module)
    module[0].weight.data = module[0].weight.data.clamp(-0.1, 0.1)
    module[1].running_mean = module[1].running_mean * 0 + 0.75
    backward(module)
    assert arena.heal()
    assert not arena.heal()
    arena.parameters.fill_(0.5)
    assert bool((module[0].weight == 0.5).all())
    assert bool((module[1].running_mean != 0).all())
    arena.buffers.fill_(2.0)
    assert bool((module[1].running_mean == 2).all())
    module[0].weight = nn.Parameter(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"0\.weight was replaced by another tensor while training; change it in place"):
        arena.heal()
