"""Workers bring what they have learned to servers that keep the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.options import option
from workbench.strategies.base import Exchange, Role, Server, Strategy, Update, Worker
from workbench.strategies.centre import Centre, Client, Part, Word, check_servers, exchange_seconds, workers_first

if TYPE_CHECKING:
    from torch import Tensor

STALENESS = 3
"""Of mode stale, by default."""


@final
@dataclass(frozen=True)
class ParameterServer(Strategy):
    """Parameter-server SGD over the last `servers` ranks, each of which keeps an equal part of the centre.

    `async`: each gradient is applied when it comes, x~ <- x~ - eta g (ASGD; Dean et al., "Downpour", 2012; without a wait, and without a
    share in W: W workers take W steps). `sync`: the mean of all workers, applied once. `stale`: as async, but a worker that is more than
    `staleness` clocks ahead of the slowest waits for it (stale-synchronous; Ho et al., 2013; Xing et al., "Petuum", 2015). A clock is an exchange.

    Where nobody waits for all, W workers move the centre W times as often and with old gradients, which acts like momentum (Mitliagkas et al.,
    2016): what a synchronous run bears (rate 0.1, momentum 0.9) may not learn at all. No momentum, or the rate over W, is the cure.

    `update="server"`: the job's optimizer runs on the servers, and `every` mini-batches make one gradient, at the parameters last read.
    `update="worker"`: workers make `every` steps with optimizers of their own and bring the sum of these, which is added to the
    centre, as in Theano-MPI's ASGD (Ma, Mao and Taylor, 2016). Messages per exchange and server: two there, two back; one model each way.
    """

    servers: int = option(1, minimum=1, help="ranks that keep the parameters, the last ones; the others train")
    mode: Literal["async", "sync", "stale"] = option(
        "async", choices=("async", "sync", "stale"), help="who waits: nobody, all for all, or who is too far ahead of the slowest"
    )
    staleness: int | None = option(
        None, minimum=0, unit="clocks", help="of mode stale: how far ahead of the slowest a worker may be and still go on; None: 3"
    )
    update: Literal["server", "worker"] = option("server", choices=("server", "worker"), help="where the optimizer runs")
    every: int = option(1, minimum=1, unit="steps", help="mini-batches between two exchanges")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.staleness is not None and self.mode != "stale":
            raise ValueError(f"ParameterServer(staleness={self.staleness}): staleness is for mode='stale', got mode={self.mode!r}")

    @property
    def bound(self) -> float:
        """Clocks that a worker may be ahead of the slowest, of modes that apply at once."""
        return math.inf if self.mode == "async" else STALENESS if self.staleness is None else self.staleness

    @property
    def lockstep(self) -> bool:
        """Only where all wait for all."""
        return self.mode == "sync"

    @property
    def period(self) -> int:
        """Workers meet at the servers."""
        return self.every

    @property
    def outlives(self) -> bool:
        """A worker that has died is not waited for, unless all wait for all."""
        return self.mode != "sync"

    def caution(self, workers: int, momentum: float) -> str:
        """Of gradients that are applied one by one."""
        if self.mode == "sync" or workers < 2 or not momentum:
            return ""
        return f"{workers} workers move the centre one by one, like more momentum; if the loss does not fall: momentum=0, or a smaller rate"

    def check(self, size: int) -> None:
        """Beside the servers a worker must be left."""
        check_servers("ParameterServer", size, self.servers)

    def roles(self, size: int) -> tuple[Role, ...]:
        """Workers, then servers."""
        return workers_first(size, self.servers)

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side of one worker."""
        comm, arena, servers = comm.channel(0), worker.arena, range(worker.workers, comm.size)
        if self.update == "worker":
            return Steps(Client(comm, worker, servers), self.every)
        # where all is trained, a worker changes nothing itself: what it reads is its model, and one gradient needs no sum to be brought
        trained = arena.state.numel() == arena.parameters.numel()
        brought, centre = arena.gradients if trained and self.every == 1 else None, arena.state if trained else None
        return Gradients(Client(comm, worker, servers, brought, centre), self.every)

    def serving(self, comm: Communicator, worker: Worker) -> Server:
        """Collective. The live side of one server."""
        centre = Centre(comm.channel(0), worker, range(worker.workers), self.servers)
        return Together(centre, self.update) if self.mode == "sync" else AtOnce(centre, self.update, self.bound)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Models there and back over the links of workers and servers."""
        together = self.mode == "sync" or self.bound == 0
        return exchange_seconds(nbytes, size - self.servers, self.servers, network, together) / self.every


class Bringing(Exchange):
    """One worker's exchanges, each after `every` mini-batches."""

    def __init__(self, client: Client, every: int) -> None:
        super().__init__(client.comm, client.worker)
        self.client, self.every = client, every
        self.centre = client.centre
        self.trained = client.worker.arena.parameters.numel()
        self.pending = 0
        """Mini-batches whose gradient the servers do not have yet."""

    def prepare(self) -> None:
        """Put the trained part of what is brought into `client.brought`."""
        raise NotImplementedError

    def after_update(self) -> None:
        """Bring when it is time, and go on from what was read."""
        self.pending += 1
        self.staleness = 0.0
        if self.pending == self.every:
            self.bring(self.worker.step + 1)

    def bring(self, steps: int) -> None:
        """One exchange, after so many steps; of what is not trained, the worker's numbers are brought as they are."""
        state = self.worker.arena.state
        self.prepare()
        self.client.brought[self.trained :].copy_(state[self.trained :])
        self.staleness = self.client.exchange(steps)
        state.copy_(self.client.centre)
        self.pending = 0

    def finish(self) -> None:
        """Bring what is left, and take the last centre."""
        if self.pending:
            self.bring(self.worker.step)
        self.client.finish()
        self.worker.arena.state.copy_(self.client.centre)


@final
class Gradients(Bringing):
    """Brings the mean gradient of its mini-batches; the optimizer is the servers'."""

    optimizer_share = 0.0

    def update(self) -> None:
        """Add the gradient to those that the servers do not have yet."""
        gradients = self.worker.arena.gradients
        if self.client.brought is gradients:
            return
        brought = self.client.brought[: self.trained]
        if self.pending:
            brought.add_(gradients)
        else:
            brought.copy_(gradients)

    def prepare(self) -> None:
        """The sum becomes the mean."""
        if self.pending > 1:
            self.client.brought[: self.trained].div_(self.pending)


@final
class Steps(Bringing):
    """Brings the sum of its own optimizer's steps."""

    def prepare(self) -> None:
        """How far it has come since it has read the centre."""
        trained = slice(self.trained)
        self.client.brought[trained].copy_(self.worker.arena.state[trained]).sub_(self.client.centre[trained])


class Keeping(Server):
    """A server that applies what workers bring, gradients or steps."""

    def __init__(self, centre: Centre, update: str) -> None:
        super().__init__(centre.comm, centre.worker)
        self.centre, self.of_gradients, self.share = centre, update == "server", centre.share

    def settle(self) -> None:
        """As the centre does."""
        self.centre.settle()

    def apply(self, brought: Tensor, learning_rate: float, weight: float) -> None:
        """The next centre: its parameters moved, its batch-norm statistics a mean in which those that were brought have that weight."""
        import torch

        centre, now, new = self.centre, self.centre.state, self.centre.successor()
        if (cut := centre.trained) < centre.length:
            torch.lerp(now[cut:], brought[cut:], weight, out=new[cut:])
            now, brought, new = now[:cut], brought[:cut], new[:cut]
        if self.of_gradients:
            self.worker.optimizer.step(Part(now, brought, new), learning_rate)
        else:
            torch.add(now, brought, out=new)
        centre.replace()


@final
class AtOnce(Keeping):
    """Applies at once whatever comes; who is more than `bound` clocks ahead of the slowest gets no answer yet."""

    def __init__(self, centre: Centre, update: str, bound: float) -> None:
        super().__init__(centre, update)
        self.bound = bound

    def serve(self) -> Iterator[Update]:
        """One update per message."""
        centre = self.centre
        held: list[int] = []
        for word in centre.words():
            if word is not None and centre.take(word):
                self.apply(centre.content.tensor, word.learning_rate, 1 / len(centre.workers))
                yield centre.applied(word, centre.version - 1)
                held.append(word.worker)
            slowest = min((centre.clocks[worker] for worker in centre.present), default=math.inf)
            for worker in [worker for worker in held if centre.clocks[worker] - slowest <= self.bound]:
                held.remove(worker)
                centre.answer(worker)


@final
class Together(Keeping):
    """Waits for all workers, and applies their mean once."""

    def serve(self) -> Iterator[Update]:
        """One update per round; contents are added in the order of the ranks, whatever the order in which they come."""
        centre, content = self.centre, self.centre.content
        total = content.tensor.new_zeros(content.tensor.shape)
        words: dict[int, Word] = {}
        for word in centre.words():
            if word is None:
                continue
            words[word.worker] = word
            if len(words) < len(centre.workers):
                continue
            total.zero_()
            for worker in centre.workers:
                centre.take(words[worker])
                total.add_(content.tensor)
            total.div_(len(words))
            self.apply(total, word.learning_rate, 1.0)
            for worker in centre.workers:
                yield centre.applied(words[worker], centre.version - 1)
            for worker in centre.workers:
                centre.answer(worker)
            words.clear()
