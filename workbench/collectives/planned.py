"""What can be run again and again: the exchanges of one segment, and those of several together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import final

from workbench.comm.base import Communicator, Request

Steps = Iterator[tuple[Request, ...]]
"""What an algorithm yields: the requests that must be complete before it goes on."""


class Planned(ABC):
    """Exchanges of one segment for one run. Made once, on all ranks and in the same order."""

    gathers_momentum = False
    """Whether what an exchange leaves is momentum already, which an update must not gather again."""

    length: int
    """Numbers of the segment."""
    itemsize: int
    """Bytes of each."""
    path: str
    """How they reach MPI, in words."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    @abstractmethod
    def steps(self) -> Steps:
        """The exchange: posts messages and yields what must be complete before it goes on."""

    def run(self) -> None:
        """The exchange from beginning to end, waiting where it must."""
        wait = self.comm.wait
        for requests in self.steps():
            wait(*requests)


@final
class Together:
    """Exchanges that are under way at the same time, begun in the same order on all ranks.

    One at a time, each begins when the one before is over, whatever else it waits for first (a GPU's copy): a library's collectives
    have one order on all ranks.
    """

    def __init__(self, comm: Communicator, one_at_a_time: bool) -> None:
        self.comm, self.one_at_a_time = comm, one_at_a_time
        self.under_way: list[Request] = []

    def begin(self, plan: Planned) -> None:
        """Follow one more."""
        before = tuple(self.under_way[-1:]) if self.one_at_a_time else ()
        self.under_way.append(self.comm.follow(chain([before], plan.steps())))

    def wait(self, *others: Request) -> None:
        """Until all that have begun are over, and `others` complete."""
        self.comm.wait(*others, *self.under_way)
        self.under_way.clear()
