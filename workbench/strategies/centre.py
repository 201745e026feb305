"""A centre on server ranks: who keeps which part of it, and how workers bring something and read it. One protocol for every strategy with servers.

A worker sends a word (which step, what it has read, at which rate) and a content of the shape of `arena.state`, cut over the servers; each
answers with its part of the centre, when its strategy says so. A worker that is done says so, and is sent the last centre of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from workbench.comm.base import ANY, Array, Communicator, Request
from workbench.comm.network import Network
from workbench.comm.staging import Staged
from workbench.errors import PeerLost
from workbench.strategies.base import Role, Update, Worker

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.arena import Arena

WORD, CONTENT, ANSWER, READ, DONE = range(5)  # tags


def workers_first(size: int, servers: int) -> tuple[Role, ...]:
    """Roles of `size` ranks of which the last `servers` keep the centre."""
    return tuple("worker" if rank < size - servers else "server" for rank in range(size))


def check_servers(owner: str, size: int, servers: int) -> None:
    """ValueError unless a worker is left beside the servers."""
    if size <= servers:
        raise ValueError(f"{owner}(servers={servers}) needs at least {servers + 1} ranks, {servers} of which are servers, got {size}")


def part_of(length: int, servers: int, index: int) -> slice:
    """What server `index` keeps of a flat tensor (length,): parts that differ by one number at most."""
    return slice(*((length * k + servers - 1) // servers for k in (index, index + 1)))


def exchange_seconds(nbytes: float, workers: int, servers: int, network: Network, together: bool) -> float:
    """Of one exchange of every worker, a model of `nbytes` there and one back, if nobody computes: 2 latencies and B + B/S on a worker's own link.

    Where nobody waits, the W B/S that pass the link of each server, in and out at the same time, may take longer than that.
    Where the answers wait for the last worker (`together`), its way there comes after those of the others.
    """
    part = nbytes / servers / network.bandwidth
    alone = 2 * network.latency + nbytes / network.bandwidth + part
    return alone + (workers - 1) * part if together else max(alone, workers * part)


@final
class Client:
    """A worker's side. What it brings lies in `brought`, what it has read in `centre`: both of the shape of `arena.state`.

    Either may be a tensor that is there anyway, which saves a copy: what is brought is read only while `exchange` lasts, and written never.
    """

    def __init__(
        self, comm: Communicator, worker: Worker, servers: Sequence[int], brought: Tensor | None = None, centre: Tensor | None = None
    ) -> None:
        self.comm, self.worker, self.servers = comm, worker, servers
        arena = worker.arena
        self._brought = Staged(arena.spare() if brought is None else brought)
        self._read = Staged(arena.spare() if centre is None else centre)
        self.brought: Tensor = self._brought.tensor
        self.centre: Tensor = self._read.tensor
        self.centre.copy_(arena.state)
        length = arena.state.numel()
        self._parts = [part_of(length, len(servers), index) for index in range(len(servers))]
        self._words = np.zeros((len(servers), 3))
        self._versions = np.zeros((len(servers), 2), np.int64)

    def exchange(self) -> float:
        """Bring `brought`, and wait until all servers have answered with the centre; how many updates old what was brought came to be."""
        self._brought.fetch()
        sending: list[Request] = []
        for server, part, word, version in zip(self.servers, self._parts, self._words, self._versions, strict=True):
            word[:] = self.worker.step, version[0], self.worker.learning_rate()
            sending += [self.comm.isend(word, server, WORD), self.comm.isend(self._brought.host[part], server, CONTENT)]
        self._take_in(*sending)
        return float(self._versions[:, 1].max())

    def finish(self) -> None:
        """No more will come: wait for the last centre of the run."""
        self._take_in(*(self.comm.isend(np.zeros(1, np.uint8), server, DONE) for server in self.servers))

    def _take_in(self, *sending: Request) -> None:
        coming: list[Request] = []
        for server, part, version in zip(self.servers, self._parts, self._versions, strict=True):
            coming += [self.comm.irecv(self._read.host[part], server, ANSWER), self.comm.irecv(version, server, READ)]
        self.comm.wait(*coming, *sending)
        for server in self.servers:
            if server in self.comm.lost:
                raise PeerLost(server, "its process died, and with it the centre that it kept")
        self._read.store()


@final
@dataclass(frozen=True)
class Word:
    """What a worker says of the content that it sends."""

    worker: int
    """Its rank."""
    step: int
    version: int
    """Of the centre that it has read."""
    learning_rate: float


@final
class Part:
    """Parameters of a part of the centre, and their gradients: what an optimizer updates."""

    def __init__(self, parameters: Tensor, gradients: Tensor) -> None:
        self.parameters, self.gradients = parameters, gradients


@final
class Centre:
    """A server's side: one part of the centre, in place in its arena."""

    def __init__(self, comm: Communicator, worker: Worker, workers: Sequence[int], servers: int) -> None:
        self.comm, self.worker, self.workers = comm, worker, workers
        arena: Arena = worker.arena
        part = part_of(arena.state.numel(), servers, worker.index)
        self.state: Tensor = arena.state[part]
        """The part, parameters first; what comes behind `trained` is frozen or a batch-norm statistic."""
        self.content = Staged(self.state.new_zeros(self.state.shape))
        """What a worker has brought, once it was taken."""
        self.trained = max(0, min(part.stop, arena.parameters.numel()) - part.start)
        self.version = 0
        """Updates of the centre so far."""
        self.clocks: Counter[int] = Counter()
        """By worker, how much of what it has brought was applied."""
        self.present = list(workers)
        """Workers that may still bring something."""
        self._word = np.zeros(3)
        self._staleness: Counter[int] = Counter()
        self._answers: list[tuple[Staged, Array, tuple[Request, ...]]] = []

    def words(self) -> Iterator[Word | None]:
        """What workers announce, in the order of arrival, until all are done; None when one has left. Then all get the last centre."""
        comm = self.comm
        leaving = {worker: comm.irecv(np.zeros(1, np.uint8), worker, DONE) for worker in self.workers}
        hearing = comm.irecv(self._word, ANY, WORD)
        while self.present:
            index = comm.wait_any(hearing, *(leaving[worker] for worker in self.present))
            if index == 0:
                step, version, rate = self._word
                word = Word(hearing.source, int(step), int(version), float(rate))
                hearing = comm.irecv(self._word, ANY, WORD)
                self.worker.step = max(self.worker.step, word.step + 1)
                yield word
            else:
                del self.present[index - 1]
                yield None
        comm.wait(hearing, comm.isend(np.zeros(3), comm.rank, WORD))
        for worker in self.workers:
            if not leaving[worker].lost:
                self.answer(worker)
        comm.wait(*(request for *_, requests in self._answers for request in requests))

    def take(self, word: Word) -> bool:
        """Receive what was announced into `content`; False if the worker died on the way."""
        receiving = self.comm.irecv(self.content.host, word.worker, CONTENT)
        self.comm.wait(receiving)
        self.content.store()
        return not receiving.lost

    def applied(self, word: Word, version: int) -> Update:
        """Note that what was announced is in the centre, which was at `version` before."""
        self.clocks[word.worker] += 1
        staleness = self._staleness[word.worker] = version - word.version
        return Update(word.worker, version, self.clocks[word.worker], staleness)

    def answer(self, worker: int) -> None:
        """Send a worker a copy of the centre as it is now."""
        copy, read = self._free()
        copy.tensor.copy_(self.state)
        copy.fetch()
        read[:] = self.version, self._staleness[worker]
        self._answers.append((copy, read, (self.comm.isend(copy.host, worker, ANSWER), self.comm.isend(read, worker, READ))))

    def _free(self) -> tuple[Staged, Array]:
        """A copy that has arrived, or a new one."""
        for index, (copy, read, requests) in enumerate(self._answers):
            if self.comm.test(*requests):
                del self._answers[index]
                return copy, read
        return Staged(self.state.new_zeros(self.state.shape)), np.zeros(2, np.int64)
