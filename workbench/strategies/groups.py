"""Workers in groups: all-reduce inside, a centre on servers between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from workbench.collectives import COLLECTIVES, Collective, Ring
from workbench.collectives.tree import levels
from workbench.comm.base import Array, Communicator
from workbench.comm.network import Network
from workbench.comm.staging import Staged
from workbench.options import option
from workbench.strategies.base import Exchange, Role, Server, Strategy, Worker
from workbench.strategies.centre import Centre, Client, check_servers, exchange_seconds, part_of, workers_first
from workbench.strategies.elastic import PULL, Meeting, OneByOne
from workbench.strategies.parameter_server import AtOnce, Gradients, Together
from workbench.strategies.synchronous import Synchronous


@final
@dataclass(frozen=True)
class Groups(Strategy):
    """Groups of workers as clients of a parameter server, as in MXNET-MPI (Mamidala, Kollias, Ward and Artico, 2018).

    In every step the workers of a group, which are consecutive ranks, average their gradients by an all-reduce. Every `interval` steps
    the first of each group meets the servers, which are the last ranks, and the others are told what it has read. `sync` and `async`
    bring the mean gradient of these steps, as a `ParameterServer` whose workers are the groups; `elastic` takes the steps inside the group,
    whose model is on a spring to the centre, as a worker of `Elastic` is.

    Groups may differ by one worker. A group of m of W workers counts m C / W among C groups: so the mean of `sync` is that of all workers.

    Limits: with one worker per group it is `ParameterServer` or `Elastic`; one group needs no centre, so it is `Synchronous` and has
    no servers, whatever `outer` and `servers` say (MXNET-MPI's "pure MPI").
    """

    groups: int = option(2, minimum=1, help="groups that the workers are divided into, of sizes that differ by one at most; 1: no servers")
    inner: Collective = option(Ring(), table=COLLECTIVES, help="the algorithm that makes the mean inside a group")
    outer: Literal["sync", "async", "elastic"] = option(
        "sync", choices=("sync", "async", "elastic"), help="between groups: all wait for all, nobody waits, or a spring to the centre"
    )
    interval: int = option(1, minimum=1, unit="steps", help="mini-batches between two exchanges of a group with the servers")
    pull: float | None = option(
        None, above=0, maximum=1, step=0.05, help="of outer elastic: share of the distance that a group and the centre move; None: 0.5"
    )
    servers: int = option(1, minimum=1, help="ranks that keep the centre, the last ones; the others train")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pull is not None and self.outer != "elastic":
            raise ValueError(f"Groups(pull={self.pull:g}): pull is for outer='elastic', got outer={self.outer!r}")

    @property
    def lockstep(self) -> bool:
        """Where all groups wait for all, or there is only one."""
        return self.groups == 1 or self.outer == "sync"

    @property
    def period(self) -> int:
        """A group meets in every step; all groups only at the servers."""
        return self.interval if self.groups > 1 and self.outer == "sync" else 1

    def check(self, size: int) -> None:
        """Every group needs a worker, and an algorithm that runs on as many ranks as it has."""
        if self.groups == 1:
            self.inner.check(size)
            return
        check_servers("Groups", size, self.servers)
        workers = size - self.servers
        if workers < self.groups:
            raise ValueError(
                f"Groups(groups={self.groups}, servers={self.servers}) needs at least {self.groups + self.servers} ranks, {self.servers} of which "
                f"are servers, got {size}; on {size} ranks groups must be at most {workers}"
            )
        for members in dict.fromkeys(map(len, self.members(workers))):
            try:
                self.inner.check(members)
            except ValueError as error:
                raise ValueError(f"Groups(groups={self.groups}, inner={self.inner}) on {size} ranks has a group of {members}: {error}") from None

    def roles(self, size: int) -> tuple[Role, ...]:
        """Workers, then servers; one group has none."""
        return workers_first(size, 0 if self.groups == 1 else self.servers)

    def together(self, size: int) -> tuple[int, ...]:
        """All workers, or those of a group."""
        if self.lockstep:
            return super().together(size)
        workers = size - self.servers
        return (*(members[0] for members in self.members(workers) for _ in members), *range(workers, size))

    def members(self, workers: int) -> list[range]:
        """The ranks of each group."""
        return [range(workers)[part_of(workers, self.groups, group)] for group in range(self.groups)]

    def share(self, group: int, workers: int) -> float:
        """What a group counts for, by its size; 1 where all are alike."""
        return len(self.members(workers)[group]) * self.groups / workers

    def pull_of(self, group: int, workers: int) -> float:
        """Between a group and the centre."""
        return min(1.0, (PULL if self.pull is None else self.pull) * self.share(group, workers))

    def exchange(self, comm: Communicator, worker: Worker) -> Exchange:
        """Collective. The live side of one worker."""
        if self.groups == 1:
            return Synchronous(collective=self.inner).exchange(comm, worker)
        return Grouped(self, comm, worker)

    def serving(self, comm: Communicator, worker: Worker) -> Server:
        """Collective. The live side of one server, whose clients are the first ranks of the groups."""
        workers = worker.workers
        comm.split(self.groups)
        clients = [members[0] for members in self.members(workers)]
        centre = Centre(comm.channel(0), worker, clients, self.servers)
        if self.outer == "elastic":
            return Meeting(centre, lambda rank: self.pull_of(clients.index(rank), workers))
        return Together(centre, "server") if self.outer == "sync" else AtOnce(centre, "server", math.inf)

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """An all-reduce in the largest group each step; each interval a model from every group to the servers, and back down its tree.

        Where nobody waits, the links of the servers are busy with one group while another is with itself.
        """
        if self.groups == 1:
            return self.inner.seconds(nbytes, size, network)
        if size <= self.servers:
            return 0.0
        largest = len(self.members(size - self.servers)[0])
        inside = self.interval * self.inner.seconds(nbytes, largest, network) + levels(largest) * network.seconds(nbytes)
        if self.outer == "sync":
            return (inside + exchange_seconds(nbytes, self.groups, self.servers, network, together=True)) / self.interval
        alone, crowded = (exchange_seconds(nbytes, clients, self.servers, network, together=False) for clients in (1, self.groups))
        return max(inside + alone, crowded) / self.interval


@final
class Grouped(Exchange):
    """One worker of a group; the first of them is the client of the servers, and the others do what it does with what it has read."""

    def __init__(self, strategy: Groups, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        arena, workers, interval = worker.arena, worker.workers, strategy.interval
        group = next(group for group, members in enumerate(strategy.members(workers)) if worker.index in members)
        self.within, outside = comm.split(group), comm.channel(0)
        self.average = strategy.inner.plan(self.within, arena.gradients)
        self.average_statistics = strategy.inner.plan(self.within, arena.buffers)
        self.sync, self.interval = strategy.outer == "sync", interval
        self.share = strategy.share(group, workers)
        self.pull = strategy.pull_of(group, workers) if strategy.outer == "elastic" else None
        """Of a group that takes steps of its own."""
        self.optimizer_share = 0.0 if self.pull is None else 1.0
        self.client: Gradients | OneByOne | None = None
        self.centre = arena.spare().copy_(arena.state)
        if self.within.rank == 0:
            brought = arena.state if self.pull is not None else None
            client = Client(outside, worker, range(workers, comm.size), brought, self.centre)
            self.client = Gradients(client, interval) if self.pull is None else OneByOne(client, self.pull, interval, 0.0)
        self.read, self.state = Staged(self.centre), Staged(arena.state)
        self.told = np.zeros(1)
        """The staleness of what the client has brought."""
        self.pending = 0
        """Steps since the last exchange with the servers."""

    def before_update(self) -> None:
        """The mean of the group; of what goes to servers, which weigh their clients alike, its share."""
        self.average.run()
        if self.pull is None and self.share != 1:
            self.worker.arena.gradients.mul_(self.share)

    def update(self) -> None:
        """The optimizer is the servers', who get the gradient from the client; or every worker's own."""
        if self.client is not None:
            self.client.update()
        elif self.pull is not None:
            super().update()

    def after_update(self) -> None:
        """Meet the centre when it is time."""
        self.staleness = 0.0
        self.pending += 1
        meeting = self.pending == self.interval
        if meeting:
            self.gather()
        if self.client is not None:
            self.client.after_update()
            self.staleness = self.client.staleness
        if meeting:
            self.pending = 0
            self.tell(self.read)
            if self.client is None:
                self.follow()

    def finish(self) -> None:
        """The client brings what is left and waits for the last centre; the others take over both its model and that."""
        if self.pending:
            self.gather()
        if self.client is not None:
            self.client.finish()
        self.tell(self.state)
        self.tell(self.read)

    def gather(self) -> None:
        """Collective in the group. Batch-norm statistics: their mean; servers that wait for all make a plain mean of what groups bring."""
        self.average_statistics.run()
        if self.sync and self.share != 1:
            self.worker.arena.buffers.mul_(self.share)  # what is read takes their place

    def tell(self, staged: Staged) -> None:
        """Collective in the group. What the client has there, and how stale it was: the same bits on all."""
        if self.client is not None:
            staged.fetch()
            self.told[0] = self.staleness
        down(self.within, self.told, staged.host)
        if self.client is None:
            staged.store()
            self.staleness = float(self.told[0])

    def follow(self) -> None:
        """Do what the client has done with the centre that it has read."""
        assert self.centre is not None
        state = self.worker.arena.state
        if self.pull is None:
            state.copy_(self.centre)
        else:
            state.lerp_(self.centre, self.pull)


def down(comm: Communicator, *arrays: Array) -> None:
    """Collective. What rank 0 has in `arrays` to all ranks, down a binomial tree of ceil(log2 P) levels."""
    reach = comm.rank & -comm.rank or 1 << levels(comm.size)
    if comm.rank:
        comm.wait(*(comm.irecv(array, comm.rank - reach, tag) for tag, array in enumerate(arrays)))
    below = [comm.rank + (reach >> level) for level in range(1, reach.bit_length())]  # who passes it on to most comes first
    comm.wait(*(comm.isend(array, rank, tag) for rank in below if rank < comm.size for tag, array in enumerate(arrays)))
