"""Everything between ranks goes through a `Communicator`: a few verbs, and one place that waits, counts and can be told to stop."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from math import inf, isnan
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

ANY: Final = -1
"""In `irecv` and `iprobe`: a message from whichever rank."""

Op = Literal["sum", "min", "max"]
Array = npt.NDArray[Any]

DTYPES: Final = tuple(np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "uint16", "uint8"))


class Request(Protocol):
    """A message or collective under way. Keep the buffer alive and untouched until `wait` or `test` says that it is complete."""

    done: bool
    """Whether `wait` or `test` has said so."""
    lost: bool
    """Whether it is complete only because its peer is gone: nothing was sent or received. Never so unless `outlive` was called."""

    @property
    def source(self) -> int:
        """Of a completed `irecv`: the rank that sent the message."""
        ...


class Polled(Request, Protocol):
    """A request that is asked whether it is complete."""

    def test(self) -> bool:
        """Whether it is complete; raises what went wrong."""
        ...


class Traffic:
    """What a rank has sent and received since the start, by peer: the ranks of the *root* communicator.

    Shared by a communicator and all that were made from it with `split` and `channel`. Payload bytes; a collective
    that the library runs itself (`iallreduce`) counts 2(P-1)/P of its buffer sent and received, in 2(P-1) messages,
    under the peer to the right: what the cheapest algorithm sends, since libraries do not tell.
    """

    def __init__(self, size: int) -> None:
        self.sent_bytes = [0] * size
        self.sent_messages = [0] * size
        self.received_bytes = 0
        self.total_sent_bytes = 0
        self.total_sent_messages = 0
        self._lock = threading.Lock()  # messages of what is followed are counted on a thread of their own

    def sent(self, peer: int, nbytes: int, messages: int = 1) -> None:
        """Count what was sent to a rank of the root communicator."""
        with self._lock:
            self.sent_bytes[peer] += nbytes
            self.sent_messages[peer] += messages
            self.total_sent_bytes += nbytes
            self.total_sent_messages += messages

    def received(self, nbytes: int) -> None:
        """Count what has been received."""
        with self._lock:
            self.received_bytes += nbytes


class Beacon:
    """What a rank is waiting for and since when; read by another thread (the hang doctor), written by `wait`."""

    __slots__ = ("since", "waited", "waiting")

    def __init__(self) -> None:
        self.waiting: tuple[Any, ...] = ()
        """The requests; put into words only when somebody asks."""
        self.since = 0.0
        self.waited = 0.0
        """Seconds that were spent in `wait` and `wait_any` so far."""

    @property
    def operation(self) -> str | None:
        """What is waited for, in words; None while the rank does something else."""
        return ", ".join(sorted({str(request) for request in self.waiting if not request.done})) or None


class Communicator(ABC):
    """Ranks that can talk to each other.

    Buffers are contiguous NumPy arrays of one of `DTYPES` (a torch CPU tensor is passed as its `.numpy()` view, once,
    when a plan is made). Ranks are positions in this communicator. `wait` and `wait_any` are the only verbs that block.
    """

    rank: int
    size: int
    traffic: Traffic
    beacon: Beacon
    now: Callable[[], float]
    """Seconds on this rank's clock; for recorder and links. Strategies use it for nothing but the `until` of `wait_any`."""
    simulated: str = ""
    """What takes the place of real links, in words; empty where there is nothing but these."""

    piece_bytes: int | None = None
    """Of a large message whose numbers are added up when they arrive: pieces of this size stay in the cache. None: as a whole."""

    @property
    def outlives(self) -> bool:
        """Whether this rank goes on when a peer dies: `outlive` was called, where the MPI library can."""
        return False

    @property
    def lost(self) -> frozenset[int]:
        """Ranks that are known to be gone; empty unless `outlive` was called."""
        return frozenset()

    @property
    @abstractmethod
    def hidden_seconds(self) -> float:
        """Seconds so far in which something that is followed was under way while this rank neither waited nor polled; of all channels together."""

    @abstractmethod
    def isend(self, buffer: Array, dest: int, tag: int = 0) -> Request:
        """Start sending `buffer` to rank `dest`. Complete only once the receiver has asked for it (count on nothing less)."""

    @abstractmethod
    def irecv(self, buffer: Array, source: int, tag: int = 0) -> Request:
        """Start receiving into `buffer` from rank `source` or `ANY`. Shorter messages than `buffer` are allowed."""

    @abstractmethod
    def iprobe(self, source: int = ANY, tag: int = 0) -> bool:
        """Whether a message is there that an `irecv` would take at once."""

    @abstractmethod
    def iallreduce(self, buffer: Array, op: Op = "sum") -> Request:
        """Collective. Start combining `buffer` elementwise over all ranks, in place, by the library's own algorithm."""

    @abstractmethod
    def test(self, *requests: Request) -> bool:
        """Whether all requests are complete; never waits. Without requests: let what is followed go on. Raises `Aborted` or `PeerLost`."""

    @abstractmethod
    def wait(self, *requests: Request) -> None:
        """Until all requests are complete. Raises `Aborted` when the run is told to end, `PeerLost` when a peer is gone."""

    @abstractmethod
    def wait_any(self, *requests: Request, until: float | None = None) -> int:
        """Until one of the requests is complete; its index, or -1 if `now()` has come to `until` before. For loops that serve several peers."""

    @abstractmethod
    def everyone(self) -> Request:
        """Collective. Complete once every rank that lives has called it. Charged and counted as nothing: it belongs to the end of a run."""

    def outlive(self) -> None:  # noqa: B027 (where a rank cannot die alone there is nothing to do)
        """From now on the death of a peer ends no wait: messages with it are complete and `lost`, it is among `lost` of all communicators
        of this family, and a receive from ANY rank goes on for the others. Of the last messages of one that has died any may be missing;
        an all-reduce with it is still `PeerLost`. All ranks call this, before their first message. Where the MPI library cannot go on
        without a rank, nothing changes."""

    def survivors(self) -> Communicator:
        """Collective among the ranks that live. A communicator of these alone, in their order; itself unless `outlive` was called."""
        return self

    @abstractmethod
    def follow(self, steps: Iterator[tuple[Request, ...]]) -> Request:
        """Carry `steps` on whenever the requests that it has yielded are complete, while this rank goes on computing.

        It is begun at once. What comes back is complete once `steps` has come to its end; what it raises, `wait` and `test`
        of that raise. Followed steps may be under way at the same time, on channels of their own; each is carried on by one
        thread at a time, and all of them also while this rank waits for something else. The library's collectives (`iallreduce`)
        have one order on all ranks: of steps with such, each first yields the request of those before.
        """

    @abstractmethod
    def hosts(self) -> tuple[int, ...]:
        """Collective. For every rank the lowest rank on the same host. Virtual ranks have a host each."""

    @abstractmethod
    def split(self, color: int, key: int | None = None) -> Communicator:
        """Collective. The ranks that gave the same color, in the order of `key` (their rank by default)."""

    @abstractmethod
    def channel(self, k: int, counted: bool = True) -> Communicator:
        """Collective, in order. The same ranks with messages of their own: what is sent here is received only here.

        Every call makes a new channel; `k` names it in error texts. Collectives share one order with those of this
        communicator and its other channels. `counted=False` is for housekeeping (control, validation): what goes there
        is not in this communicator's `traffic`, and its all-reduces cost a virtual clock nothing.
        """

    def compute(self, seconds: float) -> None:  # noqa: B027 (real ranks compute for real)
        """Charge `seconds` of work to a virtual clock; nothing on real ranks."""

    def carried(self, nbytes: int) -> None:  # noqa: B027 (simulated ranks carry everything themselves)
        """Count an all-reduce of `nbytes` that another library carries, like one of MPI."""

    def farewell(self, reason: str) -> None:  # noqa: B027 (a world of one has nobody to tell)
        """Tell the others that this rank has failed, so that they raise `PeerLost` instead of waiting for it."""


def checked(buffer: Array) -> Array:
    """`buffer` if it can be sent, or a ValueError that says why not."""
    if not isinstance(buffer, np.ndarray):
        raise ValueError(f"a communicator takes NumPy arrays (of a torch CPU tensor: its .numpy() view), got {described(buffer)}")
    if buffer.dtype not in DTYPES:
        raise ValueError(f"a communicator takes {', '.join(d.name for d in DTYPES)}, got {described(buffer)} (bfloat16 travels as its uint16 view)")
    if not buffer.flags.c_contiguous:
        raise ValueError("a communicator takes contiguous arrays, got one with strides; copy it into a work buffer first")
    return buffer


def time_of(until: float | None) -> float:
    """When a wait ends at the latest: infinity for None. ValueError for what is no time."""
    if until is None:
        return inf
    if isnan(until):
        raise ValueError(f"wait_any(until={until!r}): until must be seconds of this rank's clock (now() and later), or None, got {until!r}")
    return until


def described(buffer: Any) -> str:
    """What was given instead of an array that can be sent: "ndarray of bfloat16", "Tensor of torch.bfloat16", "list"."""
    return f"{type(buffer).__name__} of {buffer.dtype}" if hasattr(buffer, "dtype") else type(buffer).__name__


def count_allreduce(traffic: Traffic, size: int, peer: int, nbytes: int) -> None:
    """Count an all-reduce that the library ran: 2(P-1)/P of the buffer in 2(P-1) messages each way."""
    if size > 1:
        moved = 2 * (size - 1) * nbytes // size
        traffic.sent(peer, moved, 2 * (size - 1))
        traffic.received(moved)
