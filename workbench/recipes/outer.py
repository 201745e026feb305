"""Outer optimizers: how a centre, from which all workers began, follows the mean of where they have come to. `OUTERS` is the only list of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from workbench.options import Options, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Outer(Options, ABC):
    """An optimizer of the centre x~, whose gradient is Delta = x~ - mean of the workers' parameters."""

    @abstractmethod
    def step(self, centre: Tensor, velocity: Tensor, mean: Tensor, learning_rate: float) -> None:
        """One update of `centre` and `velocity` in place; `learning_rate` is that of the workers' own steps.

        All three are flat, (n,); the velocity is zero before the first step. Nothing is allocated: x~ is written as mean + Delta.
        """


@final
@dataclass(frozen=True)
class Nesterov(Outer):
    """The outer optimizer of DiLoCo: m <- mu m + Delta; x~ <- x~ - eta (Delta + mu m) (Douillard et al., 2023).

    The form of torch.optim.SGD(nesterov=True). Without momentum the centre goes a share of the way, which on one rank is
    Lookahead (Zhang, Lucas, Ba and Hinton, 2019), and at a rate of 1 all of it: then it is the mean, number for number.
    """

    learning_rate: float = option(0.7, above=0, step=0.1, help="of the centre: share of the way to the mean")
    momentum: float = option(0.9, minimum=0, maximum=1, step=0.05, help="share of the centre's last movement that is kept")

    def step(self, centre: Tensor, velocity: Tensor, mean: Tensor, learning_rate: float) -> None:
        """As above; the workers' rate plays no part."""
        delta = centre.sub_(mean)
        velocity.mul_(self.momentum).add_(delta)
        delta.mul_(1 - self.learning_rate).add_(mean).add_(velocity, alpha=-self.learning_rate * self.momentum)


@final
@dataclass(frozen=True)
class SlowMo(Outer):
    """Slow momentum: u <- beta u + Delta / gamma; x~ <- x~ - alpha gamma u (Wang, Tantia, Ballas and Rabbat, 2020).

    With the workers' rate gamma: while it is constant this is the heavy ball; when it falls, what was gathered before weighs as
    much less. Workers keep their own velocities ("maintain" in the paper).
    """

    learning_rate: float = option(1.0, above=0, step=0.1, help="of the centre (alpha)")
    momentum: float = option(0.5, minimum=0, maximum=1, step=0.05, help="slow momentum (beta)")

    def step(self, centre: Tensor, velocity: Tensor, mean: Tensor, learning_rate: float) -> None:
        """As above; where the workers' rate is 0, nothing has moved and nothing does."""
        if learning_rate == 0:
            return
        delta = centre.sub_(mean)
        velocity.mul_(self.momentum).add_(delta, alpha=1 / learning_rate)
        delta.add_(mean).add_(velocity, alpha=-self.learning_rate * learning_rate)


OUTERS: Final[dict[str, type[Outer]]] = {"nesterov": Nesterov, "slowmo": SlowMo}
