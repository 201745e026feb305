"""Going on without ranks that have died, where the MPI library can: user-level failure mitigation (Bland et al., 2013).

As Open MPI 5 has it, with two of its gaps closed: a receive from ANY rank that has begun to take a message of a rank that dies would
never end, so here messages of ANY rank are probed for; and `Ishrink` fails, so ranks meet politely before a `Shrink` that blocks.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, final

from mpi4py import MPI

from workbench.comm.base import ANY, Array
from workbench.comm.mpi_request import MpiRequest, keep

if TYPE_CHECKING:
    from workbench.comm.mpi import MpiCommunicator


@final
class Deaths:
    """Which ranks of `comm` have died, whether they are outlived, and the receives from ANY rank that nobody has sent to yet."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.outlived = False
        self.known: frozenset[int] = frozenset()
        """Ranks of `comm`."""
        self.listening: list[AnyReceive] = []
        """In the order in which they were posted."""
        self._lock = threading.Lock()

    def outlive(self) -> None:
        """From now on; nothing where the library cannot."""
        try:
            self.mourn()
        except (MPI.Exception, NotImplementedError):
            return
        self.outlived = True

    def mourn(self) -> None:
        """Go on without those who have died: receives from ANY rank work again."""
        self.comm.Ack_failed()
        self.look()

    def look(self) -> None:
        """See who has died. Takes less than a microsecond."""
        failed, group = self.comm.Get_failed(), self.comm.Get_group()
        if failed.size > len(self.known):
            self.known |= frozenset(MPI.Group.Translate_ranks(failed, list(range(failed.size)), group))
        failed.Free()
        group.Free()

    def forgives(self, error: MPI.Exception) -> bool:
        """Whether it says only that a rank has died which is outlived."""
        if not self.outlived or error.Get_error_class() not in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING):
            return False
        self.mourn()
        return True

    def probe(self, peer: int, tag: int, status: MPI.Status | None = None) -> bool:
        """Whether a message is there; of a rank that has died and is outlived: none."""
        try:
            return bool(self.comm.Iprobe(peer, tag, status))
        except MPI.Exception as error:
            if not self.forgives(error):
                raise
            return peer == MPI.ANY_SOURCE and self.probe(peer, tag, status)

    def take(self, peer: int, tag: int, status: MPI.Status | None = None) -> MPI.Message | None:
        """The first message that is there, to be received alone by whoever asked; None now where a rank has just died."""
        try:
            return self.comm.Improbe(peer, tag, status)
        except MPI.Exception as error:
            if not self.forgives(error):
                raise
            return None

    def hear(self) -> None:
        """Let receives from ANY rank take what has come, in the order in which they were posted."""
        if self.listening:
            with self._lock:
                self.listening = [receive for receive in self.listening if not self._heard(receive)]

    def _heard(self, receive: AnyReceive) -> bool:
        status = MPI.Status()
        message = self.take(MPI.ANY_SOURCE, receive.tag, status)
        if message is not None:
            receive.begin(message, status.Get_source())
        return message is not None

    def listen(self, receive: AnyReceive, again: bool = False) -> None:
        """Have it take the next message, after those that were posted before."""
        with self._lock:
            self.listening.insert(0 if again else len(self.listening), receive)


@final
class AnyReceive:
    """A receive from whichever rank that lives sends first. Where a sender dies under way, the next one's message is received.

    Of receives with the same tag, one that names the same sender takes its message first, even if it was posted later.
    """

    __slots__ = ("buffer", "content", "done", "owner", "tag")

    lost = False

    def __init__(self, owner: MpiCommunicator, buffer: Array, tag: int) -> None:
        self.owner, self.buffer, self.tag = owner, buffer, tag
        self.content: MpiRequest | None = None
        self.done = False
        owner.deaths.listen(self)

    def __str__(self) -> str:
        return str(self.content or "message from all")

    @property
    def source(self) -> int:
        """Once it is complete: the rank that sent the message."""
        return self.content.source if self.content is not None else ANY

    def begin(self, message: MPI.Message, member: int) -> None:
        """A message has come for it."""
        self.content = MpiRequest(self.owner, message.Irecv(self.buffer), "message from", self.owner.position(member), self.buffer, MPI.Status())

    def test(self) -> bool:
        """Whether it is complete."""
        if self.done:
            return True
        if self.content is None:
            self.owner.deaths.hear()
        if self.content is None or not self.content.test():
            return False
        if self.content.lost:
            self.content = None
            self.owner.deaths.listen(self, again=True)
            return False
        self.done = True
        return True


@final
class Agreement:
    """A barrier of the ranks that live: they agree on nothing in particular."""

    __slots__ = ("done", "flag", "handle", "owner")

    lost, source = False, ANY

    def __init__(self, owner: MpiCommunicator, handle: MPI.Request, flag: Array) -> None:
        self.owner, self.handle, self.flag, self.done = owner, handle, flag, False

    def __del__(self) -> None:
        if not self.done:
            keep(self.handle, self.flag)

    def __str__(self) -> str:
        return "barrier with all that live"

    def test(self) -> bool:
        """Whether all that live have come."""
        if not self.done:
            try:
                self.done = bool(self.handle.Test())
            except MPI.Exception as error:  # they have, and somebody has died
                if not self.owner.deaths.forgives(error):
                    raise
                self.done = True
        return self.done
