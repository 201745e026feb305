"""What can be run again and again: the exchanges of one segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

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
