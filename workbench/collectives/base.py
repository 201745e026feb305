"""How a flat buffer becomes the mean of all ranks: the algorithm as a value, the buffers of one run as a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.comm.base import Array, Communicator, Request
from workbench.comm.network import Network
from workbench.comm.staging import Staged
from workbench.options import Options, entry
from workbench.wires import WIRES, Wire

Steps = Iterator[tuple[Request, ...]]
"""What an algorithm yields: the requests that must be complete before it goes on."""


class Plan:
    """One collective on one segment for one run: the buffers and views that every exchange uses again.

    Made once, on all ranks and in the same order. An exchange allocates nothing.
    """

    def __init__(self, collective: Collective, comm: Communicator, segment: Any, wire: Wire) -> None:
        self.collective, self.comm, self.wire = collective, comm, wire
        self.staged = Staged(segment)
        self.buffer: Array = self.staged.host
        """The whole segment, shape (n,), on the host."""
        parts = collective.parts(comm.size)
        self.offsets: list[int] = [part * self.buffer.size // parts for part in range(parts + 1)]
        """Where the chunks begin, and the end of the last."""
        self.chunks: list[Array] = [self.span(part, part + 1) for part in range(parts)]
        """Consecutive views of `buffer`; some are empty where it has fewer numbers than parts."""
        self.work: Array = np.empty(collective.work(comm.size, self.buffer.size), self.buffer.dtype)
        """What arrives before it is added."""

    def span(self, low: int, high: int) -> Array:
        """Chunks `low` to `high` (not included) as one view."""
        return self.buffer[self.offsets[low] : self.offsets[high]]

    def steps(self) -> Steps:
        """The exchange: posts messages and yields what must be complete before it goes on."""
        self.staged.fetch()
        if self.comm.size > 1 and self.buffer.size:
            yield from self.collective.steps(self)
        self.staged.store()

    def run(self) -> None:
        """The exchange from beginning to end, waiting where it must."""
        wait = self.comm.wait
        for requests in self.steps():
            wait(*requests)

    def mean(self, part: Array) -> None:
        """Turn a sum over the ranks into their mean, in place. Done once, by the owner of the part, so that all ranks get the same bits."""
        np.divide(part, self.comm.size, out=part)


@dataclass(frozen=True)
class Collective(Options, ABC):
    """An algorithm that leaves the mean of a flat buffer on every rank, in place, the same bits on all."""

    @abstractmethod
    def steps(self, plan: Plan) -> Steps:
        """The algorithm, written once for ranks that wait, ranks that compute meanwhile, and virtual ranks."""

    @abstractmethod
    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """Cost of one exchange of `nbytes` over `size` ranks, without the arithmetic."""

    @abstractmethod
    def bytes_sent(self, nbytes: int, size: int) -> int:
        """What all ranks together send in one exchange of `nbytes`."""

    def check(self, size: int) -> None:
        """Raise a ValueError, naming the sizes that do work, where this algorithm does not run on `size` ranks."""

    def parts(self, size: int) -> int:
        """How many chunks of (nearly) equal length a plan cuts the buffer into."""
        return size

    def work(self, size: int, length: int) -> int:
        """Numbers of work space that an exchange of `length` numbers needs on one rank."""
        return -(-length // self.parts(size))

    def plan(self, comm: Communicator, segment: Any, wire: Wire | str = "float32") -> Plan:
        """Collective, in order. Prepare exchanges of `segment`, a contiguous tensor or array of shape (n,).

        Exchanges that are under way at the same time need plans on channels of their own.
        """
        self.check(comm.size)
        return Plan(self, comm, segment, entry(WIRES, "wire", wire))

    def reduce(self, comm: Communicator, buffer: Any, wire: Wire | str = "float32") -> None:
        """Collective. Leave the mean of all ranks' `buffer` in `buffer`, shape (n,): plan and run at once."""
        self.plan(comm, buffer, wire).run()
