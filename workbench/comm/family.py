"""What the communicators of one run share on a real rank: tags, farewells, the looks whether the run is to end."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any, Final, final

import numpy as np
from mpi4py import MPI

from workbench.comm.base import Beacon
from workbench.comm.progress import Progress
from workbench.comm.ulfm import Deaths
from workbench.errors import Aborted, PeerLost, WorkbenchError

TESTS_PER_LOOK: Final = 64
FAREWELL: Final = 0  # the tag of a failing rank's last word
TAGS: Final = 64  # tags of one channel


@final
class Family:
    """Shared by a communicator and those made from it by `split`, `channel` and `survivors`."""

    def __init__(self, comm: MPI.Intracomm, aborted: Callable[[], bool]) -> None:
        self.comm, self.aborted = comm, aborted
        self.beacon = Beacon()
        self.deaths = Deaths(comm)
        self.progress = Progress(aborted, sharpen_sleep)
        self.vain_tests = 0
        self.tag_limit = int(comm.Get_attr(MPI.TAG_UB) or 32767)
        self.tags = FAREWELL + 1  # the first free tag
        self.farewells: list[Any] = []
        self.attend: Callable[[], None] = self.deaths.hear  # at every poll; an emulated link takes in what has come

    def range(self) -> int:
        """The first tag of a channel of its own."""
        first, self.tags = self.tags, self.tags + TAGS
        if self.tags > self.tag_limit:
            raise WorkbenchError(f"this MPI library has only {self.tag_limit} tags; {self.tag_limit // TAGS} channels are in use")
        return first

    def tested_in_vain(self) -> None:
        """Look now and then."""
        self.vain_tests += 1
        if self.vain_tests % TESTS_PER_LOOK == 0:
            self.look()

    def look(self) -> None:
        """Raise if the run is to end: told so, or because a peer has said its farewell. Nothing is followed any more then."""
        if self.aborted():
            self.progress.drop()
            raise Aborted("the run was told to end at once")
        status = MPI.Status()
        if self.deaths.outlived:
            self.deaths.look()
        if self.deaths.probe(MPI.ANY_SOURCE, FAREWELL, status):
            word = np.zeros(status.Get_count(MPI.BYTE), np.uint8)
            self.comm.Irecv(word, status.Get_source(), FAREWELL).Test()
            self.progress.drop()
            raise PeerLost(status.Get_source(), word.tobytes().decode(errors="replace"))


def sharpen_sleep() -> None:
    """Ask Linux to end this thread's sleeps within 1 us of the time asked for instead of 50 us."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere a nap takes a little longer
        ctypes.CDLL(None).prctl(29, 1000)  # PR_SET_TIMERSLACK, nanoseconds
