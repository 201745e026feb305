"""A centre on server ranks: who keeps which part of it, and how workers bring something and read it. One protocol for every strategy with servers.

A worker sends a word (steps done, what it has read, at which rate) and a content of the shape of `arena.state`, cut over the servers; each
answers with its part of the centre, when its strategy says so. A worker that is done says so, and is sent the last centre of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from workbench.comm.base import ANY, Communicator, Request
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
    if workers < 1:
        return 0.0
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

    def exchange(self, steps: int) -> float:
        """After so many steps: bring `brought`, and wait until all servers have answered; how many updates old what was brought came to be."""
        self._brought.fetch()
        sending: list[Request] = []
        for server, part, word, version in zip(self.servers, self._parts, self._words, self._versions, strict=True):
            word[:] = steps, version[0], self.worker.learning_rate()
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


class Word(NamedTuple):
    """What a worker says of the content that it sends."""

    worker: int
    """Its rank."""
    steps: int
    """That it has done."""
    version: int
    """Of the centre that it has read."""
    learning_rate: float


@final
class Part:
    """Parameters of a part of the centre, their gradients, and where the updated ones go: what an optimizer works on."""

    def __init__(self, parameters: Tensor, gradients: Tensor, updated: Tensor) -> None:
        self.parameters, self.gradients, self.updated = parameters, gradients, updated


@final
class Edition:
    """A centre in memory, and the sends that still read it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.staged = tensor, Staged(tensor)
        self.readers: list[Request] = []


@final
class Centre:
    """A server's side: one part of the centre.

    What was sent to a worker must stay as it is until the worker has it, and nobody waits for that: while a send reads the centre, the next one is
    written beside it. So an answer copies nothing, and there are as many centres in memory as are being read, and one.
    """

    def __init__(self, comm: Communicator, worker: Worker, workers: Sequence[int], servers: int) -> None:
        self.comm, self.worker, self.workers = comm, worker, workers
        arena: Arena = worker.arena
        part = part_of(arena.state.numel(), servers, worker.index)
        self._home: Tensor = arena.state[part]
        self._editions = [Edition(self._home)]
        self._editions[0].staged.fetch()
        self.content = Staged(self._home.new_zeros(self._home.shape))
        """What a worker has brought, once it was taken."""
        self.length = self._home.numel()
        self.trained = max(0, min(part.stop, arena.parameters.numel()) - part.start)
        """So many of its numbers are trained parameters; behind them come frozen ones and batch-norm statistics."""
        self.version = 0
        """Updates of the centre so far."""
        self.clocks: Counter[int] = Counter()
        """By worker, how much of what it has brought was applied."""
        self.present = list(workers)
        """Workers that may still bring something."""
        self._word = np.zeros(3)
        self._staleness: Counter[int] = Counter()

    @property
    def share(self) -> float:
        """Of the whole centre."""
        return self.length / int(self.worker.arena.state.numel())

    @property
    def state(self) -> Tensor:
        """The part as it is now, shape (n,); not to be written."""
        return self._editions[0].tensor

    def successor(self) -> Tensor:
        """Where the next centre is to be written before `replace`: in place where nobody reads this one any more."""
        for index, edition in enumerate(self._editions):
            if not edition.readers or self.comm.test(*edition.readers):
                edition.readers.clear()
                self._next = index
                return edition.tensor
        self._editions.append(Edition(self._home.new_zeros(self._home.shape)))
        self._next = len(self._editions) - 1
        return self._editions[-1].tensor

    def replace(self) -> None:
        """The successor is the centre from now on."""
        self._editions.insert(0, self._editions.pop(self._next))
        self._editions[0].staged.fetch()
        self.version += 1

    def settle(self) -> None:
        """Bring the part to where it lies in the arena."""
        if self.state is not self._home:
            self._home.copy_(self.state)

    def words(self) -> Iterator[Word | None]:
        """What workers announce, in the order of arrival, until all are done; None when one has left. Then all get the last centre."""
        comm = self.comm
        leaving = {worker: comm.irecv(np.zeros(1, np.uint8), worker, DONE) for worker in self.workers}
        hearing = comm.irecv(self._word, ANY, WORD)
        while self.present:
            index = comm.wait_any(hearing, *(leaving[worker] for worker in self.present))
            if index == 0:
                steps, version, rate = self._word.tolist()
                word = Word(hearing.source, int(steps), int(version), rate)
                hearing = comm.irecv(self._word, ANY, WORD)
                self.worker.step = max(self.worker.step, word.steps)
                yield word
            else:
                del self.present[index - 1]
                yield None
        comm.wait(hearing, comm.isend(np.zeros(3), comm.rank, WORD))
        for worker in self.workers:
            if not leaving[worker].lost:
                self.answer(worker)
        comm.wait(*(reader for edition in self._editions for reader in edition.readers))
        self.settle()

    def take(self, word: Word) -> bool:
        """Receive what was announced into `content`; False if the worker died on the way."""
        receiving = self.comm.irecv(self.content.host, word.worker, CONTENT)
        self.comm.wait(receiving)
        self.content.store()
        return not receiving.lost

    def applied(self, word: Word, version: int) -> Update:
        """Note that what was announced goes into the centre of this version."""
        self.clocks[word.worker] += 1
        staleness = self._staleness[word.worker] = version - word.version
        return Update(word.worker, version, self.clocks[word.worker], staleness)

    def answer(self, worker: int, version: int | None = None) -> None:
        """Send a worker the centre as it is now, and its version; another one if the worker knows of an update that is still to come."""
        edition = self._editions[0]
        read = np.array((self.version if version is None else version, self._staleness[worker]))
        edition.readers += [self.comm.isend(edition.staged.host, worker, ANSWER), self.comm.isend(read, worker, READ)]
