"""Virtual ranks: threads of one process on a simulated network, under a virtual clock.

    world = VirtualWorld(128, "1G")
    results = world.run(body)          # body(comm) on every rank; blocking code runs unchanged
    world.seconds                      # how long that took on the simulated machines

One rank runs at a time (`baton.py`), so results and times repeat exactly, whatever this machine is busy with. The
world is stricter than real MPI: a send completes only once its receive is posted, a receive of another dtype is an
error, and ranks that can never go on are a `Deadlock` that names each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, final

from workbench.comm.base import ANY, Array, Communicator, Op, Request, Traffic, checked, count_allreduce, time_of
from workbench.comm.baton import Baton, Pace
from workbench.comm.following import Followed
from workbench.comm.mailbox import Message, Port, Receive
from workbench.comm.meeting import Entry, Group, Meeting, combine, conclude
from workbench.comm.network import Network
from workbench.comm.node import Node

T = TypeVar("T")


@final
class VirtualWorld:
    """`size` ranks on a simulated `network` (a Network or the name of a preset).

    `aborted()` is asked at every wait; once true, every rank gets `Aborted`. `pace="real"` sleeps so that virtual time
    never runs ahead of real time. Each rank has its own state of NumPy's and torch's global random generators.
    """

    def __init__(self, size: int, network: Network | str = "1G", *, aborted: Callable[[], bool] = bool, pace: Pace = "fast") -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"VirtualWorld(size={size!r}): size must be a whole number of at least 1, got {size!r}")
        if pace not in ("fast", "real"):
            raise ValueError(f"VirtualWorld(pace={pace!r}): pace must be 'fast' or 'real', got {pace!r}")
        self.size = size
        self.network = Network.of(network)
        self.clocks: list[float] = [0.0] * size
        """Virtual seconds at which each rank ended the last run."""
        self.failed_rank: int | None = None
        """The rank whose exception ended the last run; None if none did, or if all ended together."""
        self._aborted, self._pace = aborted, pace

    @property
    def seconds(self) -> float:
        """Virtual seconds the last run took."""
        return max(self.clocks)

    def run(self, body: Callable[[VirtualCommunicator], T]) -> list[T]:
        """`body(comm)` on every rank; what they returned, in the order of the ranks.

        An exception that leaves a rank ends the world: the others get `PeerLost`, and it is raised here with a note
        that names the rank. Raises `Deadlock` if ranks wait for what can never happen.
        """
        nodes: list[Node] = []
        baton = Baton(self.size, aborted=self._aborted, pace=self._pace, describe=lambda rank: nodes[rank].describe())
        nodes += [Node(seat, baton, self.network) for seat in baton.seats]
        everyone = Group(nodes, nodes, list(range(self.size)), "")
        try:
            return baton.run(lambda rank: body(VirtualCommunicator(everyone, rank, Traffic(self.size))))
        finally:
            self.clocks = [seat.clock for seat in baton.seats]
            self.failed_rank = baton.failed_rank


@final
class VirtualCommunicator(Communicator):
    """The communicator of one virtual rank; made by `VirtualWorld.run`."""

    simulated = "virtual ranks"

    def __init__(self, group: Group, position: int, traffic: Traffic, counted: bool = True) -> None:
        self._group, self._counted = group, counted
        self._node = node = group.nodes[position]
        self._seat, self._baton, self._network = node.seat, node.baton, node.network
        self._channels = 0
        self.rank, self.size = position, len(group.nodes)
        self.traffic, self.beacon = traffic, node.beacon
        self.now = self._now

    def _now(self) -> float:
        return self._seat.clock

    def isend(self, buffer: Array, dest: int, tag: int = 0) -> Request:
        """Start sending; the transfer starts now (after what this rank has sent before), `wait` ends once it is received for."""
        group = self._group
        if not 0 <= dest < self.size:
            raise ValueError(f"isend(dest={dest!r}): dest must be a rank in [0, {self.size - 1}], got {dest!r}")
        message = Message(self._node, checked(buffer), self.rank, dest, tag, group.where)
        inbox = group.inboxes[dest]
        port = inbox.get(tag)
        if port is None:
            port = inbox[tag] = Port()
        traffic, peer = self.traffic, group.ranks[dest]
        traffic.sent_bytes[peer] += message.nbytes
        traffic.sent_messages[peer] += 1
        traffic.total_sent_bytes += message.nbytes
        traffic.total_sent_messages += 1
        self._node.send(message, group.nodes[dest], port)
        return message

    def irecv(self, buffer: Array, source: int, tag: int = 0) -> Request:
        """Start receiving. A message that does not fit is a ValueError when this request is waited for."""
        group = self._group
        if not ANY <= source < self.size:
            raise ValueError(f"irecv(source={source!r}): source must be a rank in [0, {self.size - 1}] or ANY, got {source!r}")
        if not checked(buffer).flags.writeable:
            raise ValueError("irecv needs a buffer that can be written to, got one that is read-only")
        receive = Receive(self._node, buffer, source, tag, self._seat.clock, group.where)
        inbox = group.inboxes[self.rank]
        port = inbox.get(tag)
        if port is None:
            port = inbox[tag] = Port()
        self._node.post(receive, port)
        return receive

    def iprobe(self, source: int = ANY, tag: int = 0) -> bool:
        """Whether a message has arrived; ranks that are behind run first."""

        if not ANY <= source < self.size:
            raise ValueError(f"iprobe(source={source!r}): source must be a rank in [0, {self.size - 1}] or ANY, got {source!r}")

        def arrivals() -> list[float | None]:
            port = self._group.inboxes[self.rank].get(tag)
            if port is None:
                return []
            lanes = port.lanes.values() if source == ANY else [port.lane(source)]
            return [lane.messages[0].arrival for lane in lanes if lane.messages]

        whom = "any rank" if source == ANY else f"rank {source}"
        return self._poll(f"iprobe of {whom} (tag {tag}{self._group.where})", arrivals, any)

    def iallreduce(self, buffer: Array, op: Op = "sum") -> Request:
        """Combine in the order of the ranks; takes 2(P-1)(latency + bytes/P/bandwidth) from when the last rank enters."""
        entry, meeting = self._enter(f"iallreduce of {checked(buffer).size} {buffer.dtype.name}, op {op!r}", buffer)
        count_allreduce(self.traffic, self.size, self._group.ranks[(self.rank + 1) % self.size], buffer.nbytes)
        if len(meeting.entered) == self.size:
            entries = [meeting.entered[rank] for rank in range(self.size)]
            combine([each.given for each in entries], op)
            seconds = self._network.ring_seconds(buffer.nbytes, self.size)
            conclude(entries, seconds if self._counted else 0.0)
        return entry

    def test(self, *requests: Request) -> bool:
        """Whether all are complete at this rank's clock; ranks that are behind run first. See `polling` for the cost."""
        waiting: tuple[Any, ...] = tuple(request for request in requests if not request.done)
        if waiting:
            if not self._poll(waiting, lambda: [request.time for request in waiting], all):
                return False
        elif under_way := tuple(self._node.following.under_way):
            self._poll(under_way, lambda: [followed.time for followed in under_way], any)
        else:
            self._baton.check()
        if requests:
            self._report(requests)
        return True

    def wait(self, *requests: Request) -> None:
        """Until all are complete; this rank's clock goes on to the latest of them."""
        if requests:
            self._baton.check()
            began = self._seat.clock
            try:
                self._node.wait_all(requests)
            finally:
                self.beacon.waited += self._seat.clock - began
            self._report(requests)

    def wait_any(self, *requests: Request, until: float | None = None) -> int:
        """Until one is complete: the one that completes first in virtual time, of several the first in the list. A past `until`: like `test`."""
        waiting: tuple[Any, ...] = requests
        if not requests:
            raise ValueError("wait_any needs at least one request")
        self._baton.check()
        began, end = self._seat.clock, time_of(until)
        try:
            if end <= began and not self._poll(waiting, lambda: [request.time for request in waiting], any):
                return -1
            index = self._node.wait_any(waiting, end)
        finally:
            self.beacon.waited += self._seat.clock - began
        if index >= 0:
            self._report(requests[index : index + 1])
        return index

    def everyone(self) -> Request:
        """When the last rank has called it."""
        entry, meeting = self._enter("everyone", None)
        if len(meeting.entered) == self.size:
            conclude([meeting.entered[rank] for rank in range(self.size)], 0.0)
        return entry

    @property
    def hidden_seconds(self) -> float:
        """Of this rank, on the virtual clock."""
        return self._node.following.hidden_seconds

    def follow(self, steps: Iterator[tuple[Request, ...]]) -> Request:
        """Carry `steps` on at the virtual times at which its requests complete."""
        followed = Followed(self._node, steps, self._report)
        self._node.following.begin(followed)
        return followed

    def hosts(self) -> tuple[int, ...]:
        """Every virtual rank has a host of its own."""
        return tuple(range(self.size))

    def split(self, color: int, key: int | None = None) -> VirtualCommunicator:
        """Collective; returns when the last rank has entered, and is not charged: it belongs to setting up."""
        if isinstance(color, bool) or not isinstance(color, int) or color < 0:
            raise ValueError(f"split(color={color!r}): color must be a whole number of at least 0, got {color!r}")
        entry, meeting = self._enter("split", (color, self.rank if key is None else key, self.rank))
        if len(meeting.entered) == self.size:
            chosen: dict[int, list[tuple[int, int, int]]] = {}
            for each in meeting.entered.values():
                chosen.setdefault(each.given[0], []).append(each.given)
            for of, members in chosen.items():
                ranks = [rank for _, _, rank in sorted(members)]
                group = self._group
                made = Group(group.world, [group.nodes[r] for r in ranks], [group.ranks[r] for r in ranks], f"{group.where}, split {of}")
                for position, rank in enumerate(ranks):
                    meeting.entered[rank].result = made, position
            conclude(list(meeting.entered.values()), 0.0)
        self.wait(entry)
        made, position = entry.result
        return VirtualCommunicator(made, position, self.traffic, self._counted)

    def channel(self, k: int, counted: bool = True) -> VirtualCommunicator:
        """Collective, in order; costs nothing. The all-reduces of one that is not counted take no virtual time."""
        self._channels += 1
        group, which = self._group, (self._channels, k)
        if which not in group.channels:
            group.channels[which] = Group(group.world, group.nodes, group.ranks, f"{group.where}, channel {k}", parent=group)
        counted = counted and self._counted
        return VirtualCommunicator(group.channels[which], self.rank, self.traffic if counted else Traffic(len(group.world)), counted)

    def compute(self, seconds: float) -> None:
        """This rank works for so long; ranks that are behind then run first."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"compute(seconds={seconds!r}): seconds must be a finite number of at least 0, got {seconds!r}")
        self._baton.check()
        self._node.polls.forget()
        self._node.following.compute(self._seat.clock + seconds)
        self._baton.let_earlier_go_first(self._seat)

    def farewell(self, reason: str) -> None:
        """End the world: every other rank gets `PeerLost` with this rank and the reason."""
        self._baton.fail(self._seat.rank, reason)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _report(self, requests: tuple[Any, ...]) -> None:
        """Mark requests complete, count what they brought, raise what went wrong with them."""
        self._node.polls.forget()
        for request in requests:
            if not request.done:
                request.done = True
                if type(request) is Receive:
                    if request.error is not None:
                        raise ValueError(request.error)
                    if request.message is not None:
                        self.traffic.received_bytes += request.message.nbytes
            if type(request) is Followed and request.failure is not None:
                raise request.failure

    def _poll(self, what: Any, times: Callable[[], list[float | None]], enough: Callable[[Iterable[bool]], bool]) -> bool:
        return self._node.polls.ask(what, times, enough, self._group.world)

    def _enter(self, kind: str, given: Any) -> tuple[Entry, Meeting]:
        """Enter the next collective of this communicator."""
        group = self._group
        group.turns[self.rank] += 1
        turn = group.turns[self.rank]
        meeting = group.meetings.get(turn)
        if meeting is None:
            meeting = group.meetings[turn] = Meeting(group, kind)
        elif (meeting.kind, meeting.group) != (kind, group):
            other = f"rank {next(iter(meeting.entered))} has entered {meeting.kind}{meeting.group.where}"
            raise ValueError(f"rank {self.rank} enters {kind}{group.where}, where {other}")
        entry = meeting.entered[self.rank] = Entry(self._node, meeting, given)
        if len(meeting.entered) == self.size:
            del group.meetings[turn]
        return entry, meeting
