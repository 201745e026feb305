"""Workers go their own ways, on springs to a centre."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from workbench.collectives import Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option
from workbench.strategies.base import Exchange, Role, Server, Strategy, Update, Worker
from workbench.strategies.centre import Centre, Client, check_servers, exchange_seconds, workers_first
from workbench.wires import Float32

PULL = 0.5
"""By default, of each worker and the centre on a server (Ma, Mao and Taylor, 2016)."""
BETA = 0.9
"""Of the symmetric form by default: what all workers together pull the centre by (Zhang, Choromanska and LeCun, 2015)."""


@final
@dataclass(frozen=True)
class Elastic(Strategy):
    """Elastic averaging SGD (Zhang, Choromanska and LeCun, 2015): every so many steps a worker and the centre move towards each other.

    With a server, the last rank, one worker at a time, as in Theano-MPI (Ma, Mao and Taylor, 2016): x_i <- x_i - a (x_i - x~) and
    x~ <- x~ + a (x_i - x~), both from the values before. Nobody waits for other workers; per exchange one model there and one back.
    Without one, the symmetric synchronous form: all move at the same step, x~ <- x~ + a sum_i (x_i - x~), every worker with a copy
    of the centre of its own; per exchange one all-reduce. With `momentum`, EAMSGD: v <- d v - eta g(x + d v), x <- x + v; between two steps a
    worker's parameters are x + d v, where the next gradient is taken, so that is what its sketches and its own validations are of.
    """

    pull: float | None = option(
        None, above=0, maximum=1, step=0.05, help="share of the distance that worker and centre move; None: 0.5 with a server, 0.9/workers without"
    )
    every: int = option(10, minimum=1, unit="steps", help="local steps between two exchanges of a worker")
    momentum: float = option(
        0.0,
        minimum=0,
        maximum=1,
        step=0.05,
        help="Nesterov's momentum of each worker (EAMSGD), in place of the job's; 0: the job's optimizer as it is",
    )
    server: bool = option(True, help="a centre on a rank of its own, which workers meet one at a time; else all meet at the same step")

    @property
    def lockstep(self) -> bool:
        """Only without a server."""
        return not self.server

    @property
    def own(self) -> tuple[str, ...]:
        """EAMSGD's momentum."""
        return ("momentum",) if self.momentum else ()

    @property
    def period(self) -> int:
        """Where all meet: after every `every` steps."""
        return self.every

    @property
    def outlives(self) -> bool:
        """With a server, workers need only that."""
        return self.server

    def check(self, size: int) -> None:
        """A worker must be left; without a server, two, and the pull must not diverge."""
        if self.server:
            check_servers("Elastic", size, 1)
            return
        if size < 2:
            raise ValueError(f"Elastic(server=False) needs at least 2 ranks, got {size}")
        if self.pull is not None and self.pull >= 2 / (size + 1):
            raise ValueError(
                f"Elastic(pull={self.pull:g}, server=False) diverges on {size} ranks: pull must be below 2/(workers + 1) = {2 / (size + 1):.4g}; "
                f"0.9/workers = {BETA / size:.4g} is the default"
            )

    def roles(self, size: int) -> tuple[Role, ...]:
        """Workers, and a server behind them."""
        return workers_first(size, int(self.server))

    def pull_on(self, workers: int) -> float:
        """The pull between one worker and the centre."""
        return self.pull if self.pull is not None else PULL if self.server else BETA / workers

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side of one worker."""
        pull = self.pull_on(worker.workers)
        if not self.server:
            return Symmetric(comm.channel(0), worker, pull, self.every, self.momentum)
        return OneByOne(Client(comm.channel(0), worker, [comm.size - 1], worker.arena.state), pull, self.every, self.momentum)

    def serving(self, comm: Communicator, worker: Worker) -> Server:
        """Collective. The live side of the server."""
        pull = self.pull_on(worker.workers)
        return Meeting(Centre(comm.channel(0), worker, range(worker.workers), 1), lambda rank: pull)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """With a server models there and back, without one an all-reduce."""
        if not self.server:
            return Ring().seconds(nbytes, size, network) / self.every
        return exchange_seconds(nbytes, size - 1, 1, network, together=False) / self.every


class Tied(Exchange):
    """One worker on its spring."""

    def __init__(self, comm: Communicator, worker: Worker, every: int, momentum: float) -> None:
        super().__init__(comm, worker)
        self.every, self.momentum = every, momentum
        self.pending = 0
        """Steps since the last exchange."""
        self.velocity = worker.arena.parameters.new_zeros(worker.arena.parameters.shape) if momentum else None

    def meet(self, steps: int) -> None:
        """After so many steps: worker and centre move towards each other."""
        raise NotImplementedError

    def update(self) -> None:
        """The job's optimizer; or Nesterov's step, from the gradient at x + d v, where the parameters are between two steps."""
        if self.velocity is None:
            super().update()
            return
        worker, velocity = self.worker, self.velocity
        x, gradient = worker.arena.parameters, worker.arena.gradients
        if worker.optimizer.weight_decay:
            gradient.add_(x, alpha=worker.optimizer.weight_decay)
        x.sub_(velocity, alpha=self.momentum)
        velocity.mul_(self.momentum).sub_(gradient, alpha=worker.learning_rate())
        x.add_(velocity)

    def after_update(self) -> None:
        """Meet the centre when it is time, and look ahead."""
        self.staleness = 0.0
        self.pending += 1
        if self.pending == self.every:
            self.meet(self.worker.step + 1)
            self.pending = 0
        self.look_ahead(1)

    def look_ahead(self, sign: int) -> None:
        """To where the next gradient is taken, or back."""
        if self.velocity is not None:
            self.worker.arena.parameters.add_(self.velocity, alpha=sign * self.momentum)

    def finish(self) -> None:
        """Meet the centre once more, with what has come since."""
        self.look_ahead(-1)
        if self.pending:
            self.meet(self.worker.step)


@final
class OneByOne(Tied):
    """A worker that meets a centre on servers; its client brings the state of its arena."""

    def __init__(self, client: Client, pull: float, every: int, momentum: float) -> None:
        super().__init__(client.comm, client.worker, every, momentum)
        self.client, self.pull = client, pull
        self.centre = client.centre

    def meet(self, steps: int) -> None:
        """Bring x, read the centre as it was, move towards it."""
        self.staleness = self.client.exchange(steps)
        self.worker.arena.state.lerp_(self.client.centre, self.pull)

    def finish(self) -> None:
        """And take the last centre, which is the answer; this worker's own model stays its own."""
        super().finish()
        self.client.finish()


@final
class Symmetric(Tied):
    """A worker of those that meet all together, with a copy of the centre of its own."""

    def __init__(self, comm: Communicator, worker: Worker, pull: float, every: int, momentum: float) -> None:
        super().__init__(comm, worker, every, momentum)
        self.pull = pull
        self.mean = worker.arena.spare()
        self.plan = Ring().plan(comm, self.mean, Float32())
        self.own = worker.arena.spare()
        """The centre: the same bits on every worker."""
        self.own.copy_(worker.arena.state)
        self.centre = self.own

    def meet(self, steps: int) -> None:
        """x~ <- x~ + a W (mean - x~), and x towards the centre as it was."""
        state = self.worker.arena.state
        self.mean.copy_(state)
        self.plan.run()
        state.lerp_(self.own, self.pull)
        self.own.lerp_(self.mean, self.pull * self.worker.workers)


@final
class Meeting(Server):
    """Meets one worker at a time; `pull` says how strongly, by the worker's rank."""

    def __init__(self, centre: Centre, pull: Callable[[int], float]) -> None:
        super().__init__(centre.comm, centre.worker)
        self.centre, self.pull, self.share = centre, pull, centre.share

    def settle(self) -> None:
        """As the centre does."""
        self.centre.settle()

    def serve(self) -> Iterator[Update]:
        """One update per message; the worker is sent the centre as it was before."""
        import torch

        centre = self.centre
        for word in centre.words():
            if word is not None and centre.take(word):
                update = centre.applied(word, centre.version)
                centre.answer(word.worker, centre.version + 1)
                torch.lerp(centre.state, centre.content.tensor, self.pull(word.worker), out=centre.successor())
                centre.replace()
                yield update
