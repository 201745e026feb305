"""What must hold for every collective on every number of ranks, as functions of a communicator.

A law returns the words of what it found broken, so that under real MPI all ranks get to the end and fail together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from workbench.collectives import COLLECTIVES, Collective
from workbench.comm.base import Communicator

LENGTHS = (0, 1, 2, 3, 5, 8, 13, 64, 1000, 1023, 4099)


def inputs(rank: int, length: int, dtype: str = "float32") -> np.ndarray:
    """What a rank brings: seeded, of both signs, over several magnitudes."""
    random = np.random.default_rng([rank, length])
    return (random.standard_normal(length) * 10.0 ** random.integers(-3, 4, length)).astype(dtype)


def exact_mean(comm: Communicator, collective: Collective, length: int) -> Iterator[str]:
    """The result is the mean of what all ranks brought, within the rounding of float32 sums."""
    everyone = np.stack([inputs(rank, length) for rank in range(comm.size)]).astype(np.float64)
    buffer = inputs(comm.rank, length)
    collective.reduce(comm, buffer)
    allowed = np.finfo(np.float32).eps * comm.size * np.abs(everyone).max(axis=0, initial=0)
    worst = np.abs(buffer - everyone.mean(axis=0)) - allowed
    if length and worst.max() > 0:
        yield f"{collective} x {comm.size} ranks x {length}: rank {comm.rank} is off the mean by {worst.max():.3g} more than rounding allows"


def same_bits(comm: Communicator, collective: Collective, length: int) -> Iterator[str]:
    """All ranks end with the same bits."""
    buffer = inputs(comm.rank, length)
    collective.reduce(comm, buffer)
    lowest, highest = buffer.view(np.int32).copy(), buffer.view(np.int32).copy()
    comm.wait(comm.iallreduce(lowest, "min"), comm.iallreduce(highest, "max"))
    if not np.array_equal(lowest, highest):
        yield f"{collective} x {comm.size} ranks x {length}: {np.count_nonzero(lowest != highest)} numbers differ between ranks"


def agreement_is_fixed(comm: Communicator, collective: Collective, length: int) -> Iterator[str]:
    """Where all ranks agree already, nothing moves (up to one rounding of the sum)."""
    before = inputs(7, length)
    buffer = before.copy()
    collective.reduce(comm, buffer)
    if not np.allclose(buffer, before, rtol=comm.size * np.finfo(np.float32).eps, atol=0):
        yield f"{collective} x {comm.size} ranks x {length}: rank {comm.rank} moved away from an agreement"


def plan_again(comm: Communicator, collective: Collective, length: int) -> Iterator[str]:
    """A plan is used many times, in place, and float64 works like float32."""
    buffer = np.zeros(length)
    plan = collective.plan(comm, buffer)
    for turn in range(3):
        buffer[:] = comm.rank + turn
        plan.run()
        if not np.allclose(buffer, (comm.size - 1) / 2 + turn):
            yield f"{collective} x {comm.size} ranks x {length}: turn {turn} of one plan gave {buffer[:3]} on rank {comm.rank}"


def bytes_as_declared(comm: Communicator, collective: Collective, length: int) -> Iterator[str]:
    """All ranks together send what the collective declares."""
    before = comm.traffic.total_sent_bytes
    collective.reduce(comm, np.zeros(length, np.float32))
    sent = np.array([comm.traffic.total_sent_bytes - before], np.int64)
    comm.wait(comm.iallreduce(sent))
    declared = collective.bytes_sent(4 * length, comm.size)
    if sent[0] != declared:
        yield f"{collective} x {comm.size} ranks x {length}: {int(sent[0])} bytes were sent, {declared} declared"


LAWS: tuple[Callable[[Communicator, Collective, int], Iterator[str]], ...] = (
    exact_mean,
    same_bits,
    agreement_is_fixed,
    plan_again,
    bytes_as_declared,
)


def allowed(collective: Collective, size: int) -> bool:
    """Whether `check` lets the collective run on so many ranks; if not, it must say what was given."""
    try:
        collective.check(size)
    except ValueError as error:
        if str(size) not in str(error):
            raise
        return False
    return True


def broken(comm: Communicator, lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """Every law for every collective and length on this communicator: what is broken, in words."""
    found: list[str] = []
    for collective in (made() for made in COLLECTIVES.values()):
        if allowed(collective, comm.size):
            for length in lengths:
                for law in LAWS:
                    found += law(comm, collective, length)
    return found
