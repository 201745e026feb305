"""What must hold for every collective on every number of ranks, as functions of a communicator.

A law returns the words of what it found broken, so that under real MPI all ranks get to the end and fail together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import numpy as np

from workbench.collectives import PORTABLE, CentralServer, Collective, Gloo, Hierarchical, MultiRing, Torus2D
from workbench.comm.base import Communicator
from workbench.wires import WIRES, Codec, Float32, Wire

LENGTHS = (0, 1, 2, 3, 5, 8, 13, 64, 1000, 1023, 4099)

VARIANTS: tuple[Collective, ...] = (
    *(Torus2D(rows=rows) for rows in (1, 2, 3)),
    *(Hierarchical(group=group) for group in (2, 3, 4)),
    *(MultiRing(rings=rings) for rings in (1, 3)),
    *(CentralServer(servers=servers) for servers in (2, 3)),
)
"""Options other than the default ones."""


def collectives() -> list[Collective]:
    """Every collective that runs on any communicator, as it is by default and otherwise."""
    return [*(made() for made in PORTABLE.values()), *VARIANTS]


def codecs() -> list[Codec]:
    """Every wire that goes with all collectives."""
    return [made() for made in WIRES.values() if issubclass(made, Codec)]


def sample(collective: Collective, wire: Wire, size: int, count: int, lengths: tuple[int, ...] = LENGTHS) -> list[int]:
    """A number fewer than ranks, and some of the lengths, seeded: others for every number of ranks, all of them over enough numbers."""
    shuffled = Random(f"{collective} {wire}").sample(lengths, len(lengths))
    some = [shuffled[(size * count + turn) % len(lengths)] for turn in range(min(count, len(lengths)))]
    return list(dict.fromkeys([size - 1, *some]))


def inputs(rank: int, length: int, dtype: str = "float32") -> np.ndarray:
    """What a rank brings: seeded, of both signs, over several magnitudes."""
    random = np.random.default_rng([rank, length])
    return (random.standard_normal(length) * 10.0 ** random.integers(-3, 4, length)).astype(dtype)


def exact_mean(comm: Communicator, collective: Collective, wire: Codec, length: int) -> Iterator[str]:
    """The result is the mean of what all ranks brought, within the rounding of float32 sums and of as many messages as declared."""
    everyone = np.stack([inputs(rank, length) for rank in range(comm.size)]).astype(np.float64)
    buffer = inputs(comm.rank, length)
    collective.reduce(comm, buffer, wire)
    worst = np.abs(buffer - everyone.mean(axis=0)) - bound(collective, wire, everyone)
    if length and worst.max() > 0:
        yield f"{collective} x {wire} x {comm.size} ranks x {length}: rank {comm.rank} is off the mean by {worst.max():.3g} more than rounding allows"


def bound(collective: Collective, wire: Codec, everyone: np.ndarray) -> np.ndarray:
    """The most that the mean of `everyone`, shape (ranks, numbers), may be off."""
    size, magnitudes = len(everyone), np.abs(everyone)
    sums = np.finfo(np.float32).eps * magnitudes.sum(axis=0)
    if size == 1:
        return sums
    return sums + 1.001 * collective.roundings(size) * np.mean([wire.rounding(each) for each in magnitudes], axis=0)


def same_bits(comm: Communicator, collective: Collective, wire: Wire, length: int) -> Iterator[str]:
    """All ranks end with the same bits."""
    buffer = inputs(comm.rank, length)
    collective.reduce(comm, buffer, wire)
    lowest, highest = buffer.view(np.int32).copy(), buffer.view(np.int32).copy()
    comm.wait(comm.iallreduce(lowest, "min"), comm.iallreduce(highest, "max"))
    if not np.array_equal(lowest, highest):
        yield f"{collective} x {wire} x {comm.size} ranks x {length}: {np.count_nonzero(lowest != highest)} numbers differ between ranks"


def agreement_is_fixed(comm: Communicator, collective: Collective, wire: Codec, length: int) -> Iterator[str]:
    """Where all ranks agree already, nothing moves (up to rounding)."""
    before = inputs(7, length)
    buffer = before.copy()
    collective.reduce(comm, buffer, wire)
    if (np.abs(buffer - before) > bound(collective, wire, np.tile(before.astype(np.float64), (comm.size, 1)))).any():
        yield f"{collective} x {wire} x {comm.size} ranks x {length}: rank {comm.rank} moved away from an agreement"


def plan_again(comm: Communicator, collective: Collective, wire: Codec, length: int) -> Iterator[str]:
    """A plan is used many times, in place, and float64 works like float32."""
    buffer = np.zeros(length)
    plan = collective.plan(comm, buffer, wire)
    for turn in range(3):
        buffer[:] = comm.rank + turn
        plan.run()
        everyone = np.repeat(np.arange(turn, comm.size + turn, dtype=np.float64)[:, None], length, axis=1)
        if (np.abs(buffer - everyone.mean(axis=0)) > bound(collective, wire, everyone) + 1e-12).any():
            yield f"{collective} x {wire} x {comm.size} ranks x {length}: turn {turn} of one plan gave {buffer[:3]} on rank {comm.rank}"


def bytes_as_declared(comm: Communicator, collective: Collective, wire: Wire, length: int) -> Iterator[str]:
    """All ranks together send what is declared."""
    plan = collective.plan(comm, np.zeros(length, np.float32), wire)
    before = comm.traffic.total_sent_bytes
    plan.run()
    sent = np.array([comm.traffic.total_sent_bytes - before], np.int64)
    comm.wait(comm.iallreduce(sent))
    declared = wire.bytes_sent(length, comm.size, collective)
    if sent[0] != declared:
        yield f"{collective} x {wire} x {comm.size} ranks x {length}: {int(sent[0])} bytes were sent, {declared} declared"


LAWS: tuple[Callable[..., Iterator[str]], ...] = (exact_mean, same_bits, agreement_is_fixed, plan_again, bytes_as_declared)
"""(comm, collective, codec, length) -> what is broken."""


def allowed(collective: Collective, wire: Wire, size: int) -> bool:
    """Whether the collective runs on so many ranks with this wire; if not, the error must say what was given."""
    try:
        collective.check(size)
    except ValueError as error:
        if str(size) not in str(error):
            raise
        return False
    try:
        collective.check_wire(wire)
    except ValueError as error:
        if str(wire) not in str(error):
            raise
        return False
    return True


def on_real_ranks(size: int) -> list[Collective]:
    """Every collective that runs on so many real ranks, as it is by default."""
    return [each for each in [*(made() for made in PORTABLE.values()), Gloo()] if allowed(each, Float32(), size)]


def broken(comm: Communicator, lengths: tuple[int, ...] = LENGTHS, count: int = len(LENGTHS)) -> list[str]:
    """Every law for every collective and codec on this communicator, with `count` of the lengths: what is broken, in words."""
    return [
        words
        for collective in [*collectives(), *([] if comm.simulated else [Gloo()])]
        for wire in codecs()
        if allowed(collective, wire, comm.size)
        for length in sample(collective, wire, comm.size, count, lengths)
        for law in LAWS
        for words in law(comm, collective, wire, length)
    ]
