"""Servers that sum for all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, final

from workbench.collectives.base import Collective, Plan, Steps
from workbench.collectives.passes import direct_all_gather
from workbench.comm.network import Network
from workbench.options import option

SLOTS: Final = 2  # one message is added while the next one arrives


@final
@dataclass(frozen=True)
class CentralServer(Collective):
    """Some ranks are servers too, each of a part of the buffer: they sum what all ranks send and send the mean to all.

    A synchronous parameter server as a collective (Li et al., 2014). One server's link carries the buffer 2(P-1) times,
    which is what a ring avoids. A server adds up in the order of the ranks, from its own on, and listens to two at a
    time: it needs the memory of two parts, however many ranks there are.
    """

    servers: int = option(1, minimum=1, unit="ranks", help="ranks that sum a part of the buffer each, spread evenly; at most all")

    def steps(self, plan: Plan) -> Steps:
        """Every part to its server, every mean to all."""
        rank, size = plan.comm.rank, plan.comm.size
        servers = [server * size // self.servers for server in range(self.servers)]
        # the nearest server below first: no two servers listen to the same rank at once
        nearest = sorted(range(self.servers), key=lambda part: (rank - servers[part]) % size)
        sending = [plan.send(part, servers[part]) for part in nearest if servers[part] != rank]
        if rank in servers:
            part, workers = servers.index(rank), [(rank + step) % size for step in range(1, size)]
            arriving = deque(plan.receive(part, worker, slot) for slot, worker in enumerate(workers[:SLOTS]))
            for turn in range(len(workers)):
                yield (arriving.popleft(),)
                plan.add(part, turn % SLOTS)
                if turn + SLOTS < len(workers):
                    arriving.append(plan.receive(part, workers[turn + SLOTS], turn % SLOTS))
            plan.seal(part)
        yield tuple(sending)
        yield from direct_all_gather(plan, servers)

    def check(self, size: int) -> None:
        """No more servers than ranks."""
        if self.servers > size:
            raise ValueError(f"{self} needs at least {self.servers} ranks, got {size}; servers may be 1 to {size}")

    def roundings(self, size: int) -> int:
        """What a worker sends, and the mean."""
        return 2

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """P-1 parts arrive at each server's link one behind the other, and leave it (Hockney's model with one port, 1994)."""
        return 2 * network.seconds((size - 1) * nbytes / self.servers) if size > 1 else 0.0

    def parts(self, size: int) -> int:
        """One for each server."""
        return self.servers
