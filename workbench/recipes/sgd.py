"""Stochastic gradient descent on the arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.arena import Trained


class SGD:
    """v <- mu v + (g + lambda x); x <- x - eta v, on the flat buffers (Polyak, 1964; the form of torch.optim.SGD).

    Three passes over the parameters, whatever the number of layers. The velocity is a flat tensor of the shape of
    the parameters, made when momentum is first wanted. A gradient in which momentum was gathered before the ranks averaged is taken as it is, and the
    velocity is that of the decay alone: v <- mu v + lambda x; x <- x - eta (g + v) (as Lin et al., 2018, do).
    """

    def __init__(self, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity: Tensor | None = None

    def step(self, trained: Trained, learning_rate: float, gathered: bool = False) -> None:
        """One update; the gradient may change. `gathered`: momentum is in it already."""
        gradient = trained.gradients
        if self.momentum and self.velocity is None:
            self.velocity = torch.zeros_like(trained.parameters)
        if gathered and self.velocity is not None:
            if self.weight_decay:
                gradient.add_(self.velocity.mul_(self.momentum).add_(trained.parameters, alpha=self.weight_decay))
        else:
            if self.weight_decay:
                gradient.add_(trained.parameters, alpha=self.weight_decay)
            if self.velocity is not None:
                gradient = self.velocity.mul_(self.momentum).add_(gradient)
        torch.add(trained.parameters, gradient, alpha=-learning_rate, out=trained.updated)
