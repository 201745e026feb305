"""A started MPI operation, and what becomes of one that nobody asks for any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from mpi4py import MPI

from workbench.comm.base import ANY, Array

if TYPE_CHECKING:
    from workbench.comm.mpi import MpiCommunicator

_abandoned: list[tuple[MPI.Request, tuple[Array, ...]]] = []


def keep(handle: MPI.Request, *buffers: Array) -> None:
    """Nobody will ask for this operation any more, in a run that was aborted: the library may still write into its buffers, so they stay."""
    _abandoned.append((handle, buffers))


@final
class MpiRequest:
    """A started operation and what is needed to account for it."""

    __slots__ = ("buffer", "done", "handle", "lost", "operation", "owner", "peer", "source", "status")

    def __init__(self, owner: MpiCommunicator, handle: MPI.Request, operation: str, peer: int, buffer: Array, status: MPI.Status | None) -> None:
        self.owner, self.handle, self.operation, self.peer = owner, handle, operation, peer
        self.buffer = buffer  # kept alive until the library is done with it
        self.status, self.done, self.lost, self.source = status, False, False, peer

    def __del__(self) -> None:
        if not self.done:
            keep(self.handle, self.buffer)

    def __str__(self) -> str:
        return f"{self.operation} {'all' if self.peer == ANY else self.peer}"

    def test(self) -> bool:
        """Whether it is complete."""
        if self.done:
            return True
        status = self.status
        try:
            complete = self.handle.Test(status)
        except MPI.Exception as error:
            if self.peer == ANY or not self.owner.deaths.forgives(error):
                raise
            self.done = self.lost = True
            return True
        if not complete:
            if self.peer == ANY and self.owner.lost:
                raise self.owner.died()
            return False
        self.done = True
        if status is not None:
            self.source = self.owner.position(status.Get_source())
            self.owner.traffic.received(status.Get_count(MPI.BYTE))
        return True
