"""What each rank of `test_tcp` runs, a host of its own: laws, and the bytes that the interface of its host has sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

from tests.laws import allowed, broken
from tests.mpi.conclusion import conclude
from workbench.collectives import COLLECTIVES, Collective, Ring
from workbench.comm.base import Communicator
from workbench.comm.mpi import MpiCommunicator
from workbench.wires import WIRES, Float32, Wire

SENT = Path("/sys/class/net/veth0/statistics/tx_bytes")
LENGTH = 500_003
HEADERS = 1.12
"""Of what is sent: Ethernet, IP and TCP take 5 % of a full packet; acknowledgements of what is received come on top."""
SPARE = 200_000
"""Bytes of housekeeping: agreeing on a plan, barriers, the launcher's daemon, packets that were sent twice."""


def bytes_on_the_wire(comm: Communicator, collective: Collective, wire: Wire) -> Iterator[str]:
    """What this rank says that it has sent has left its host, and little more. A library that went around the link would be found here."""
    buffer = np.random.default_rng(comm.rank).standard_normal(LENGTH).astype(np.float32)
    plan = collective.plan(comm, buffer, wire, [(LENGTH,)])
    plan.run()  # connections are made, a compressor has something to remember
    MPI.COMM_WORLD.Barrier()
    counted, on_the_wire = comm.traffic.total_sent_bytes, int(SENT.read_text())
    plan.run()
    MPI.COMM_WORLD.Barrier()
    counted, on_the_wire = comm.traffic.total_sent_bytes - counted, int(SENT.read_text()) - on_the_wire
    everyone = np.array([on_the_wire], np.int64)
    comm.wait(comm.iallreduce(everyone))
    declared = wire.bytes_sent(LENGTH, comm.size, collective, [(LENGTH,)])
    yield from unless(declared <= everyone[0], f"{collective} x {wire}: the links carried {everyone[0]} bytes, {declared} are declared")
    if type(collective).any_codec:  # how a library spreads its bytes over the ranks is its own affair
        yield from unless(
            counted <= on_the_wire <= HEADERS * counted + SPARE,
            f"{collective} x {wire}: rank {comm.rank} counted {counted} bytes, its link carried {on_the_wire}",
        )


def unless(kept: bool, words: str) -> Iterator[str]:
    if not kept:
        yield words


def pairs() -> Iterator[tuple[Collective, Wire]]:
    """Every collective with the plain wire, and every other wire with the ring."""
    yield from ((collective(), Float32()) for collective in COLLECTIVES.values() if not collective.on_device)
    yield from ((Ring(), wire()) for wire in WIRES.values() if wire is not Float32)


def main() -> None:
    """Every law; the words of all ranks are gathered before anyone fails."""
    comm = MpiCommunicator(MPI.COMM_WORLD.Dup())
    found = list(unless(comm.hosts() == tuple(range(comm.size)), f"ranks on {comm.size} hosts are taken for {comm.hosts()}"))
    found += unless(socket.gethostname() == f"h{comm.rank + 1}", f"rank {comm.rank} is on {socket.gethostname()}")
    found += broken(comm, lengths=(1023,))
    for collective, wire in pairs():
        if allowed(collective, wire, comm.size):
            found += bytes_on_the_wire(comm, collective, wire)
    conclude(found, f"laws kept on {comm.size} hosts")


if __name__ == "__main__":
    main()
