"""What the links between ranks cost, measured: the `Network` that formulas are then asked with."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from workbench.comm.base import Communicator
from workbench.comm.network import Network

EMPTY_BYTES: Final = 8
SIZES: Final = tuple(1 << power for power in (18, 19, 20, 21, 22))
"""Messages whose times give the bandwidth: shorter ones ride on buffers and caches, and would make links look fast."""

ROUNDS: Final = 7
BLOCK_SECONDS: Final = 2e-3


def calibrate(comm: Communicator, rounds: int = ROUNDS) -> Network:
    """Collective. Latency and bandwidth while all ranks send to the right and receive from the left at once.

    That is what they do in a collective; between two ranks alone a message is faster (ping-pong flatters). The latency is the
    time at 8 B, the bandwidth the slope of a line through the times from 256 KB on, weighted by 1/t so that all sizes count alike.
    """
    if comm.size == 1:
        return Network(latency=0.0)
    sizes = (EMPTY_BYTES, *SIZES)
    samples = np.array([[shift(comm, nbytes) for nbytes in sizes] for _ in range(rounds + 1)])[1:]
    comm.wait(comm.iallreduce(samples, "max"))  # the slowest rank of each round
    return fitted(sizes, np.median(samples, axis=0))


def fitted(sizes: tuple[int, ...], seconds: np.ndarray) -> Network:
    """The network whose messages of `sizes` take `seconds`, both shape (n,), the first of them as good as empty."""
    slope, _ = np.polyfit(sizes[1:], seconds[1:], 1, w=1 / seconds[1:])
    if slope <= 0:  # noise: no line can be drawn, so the longest message decides
        slope = seconds[-1] / sizes[-1]
    return Network(latency=float(seconds[0]), bandwidth=float(1 / slope))


def shift(comm: Communicator, nbytes: int) -> float:
    """Collective. Mean seconds of a message in a block of them, all ranks at once."""
    outgoing, incoming = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    # as many on every rank: from a guess of what a link does at least, not from a clock
    messages = max(1, min(50, int(BLOCK_SECONDS * 1e9 / (nbytes + 20_000))))
    comm.wait(comm.iallreduce(np.zeros(1)))
    start = time.perf_counter()
    for _ in range(messages):
        arriving = comm.irecv(incoming, left)
        comm.wait(arriving, comm.isend(outgoing, right))
    return (time.perf_counter() - start) / messages
