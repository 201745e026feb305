"""Whether all ranks are about to exchange the same, asked once when a plan is made."""

from __future__ import annotations

import zlib

import numpy as np

from workbench.comm.base import Communicator


def agree(comm: Communicator, length: int, itemsize: int, how: str) -> None:
    """Collective. ValueError, naming two ranks, unless all bring `length` numbers of `itemsize` bytes and exchange them as `how` says."""
    if comm.size == 1:
        return
    told = np.zeros((comm.size, 3), np.int64)
    told[comm.rank] = length, itemsize, zlib.crc32(how.encode())
    comm.wait(comm.iallreduce(told))
    for what, column in zip(("numbers", "bytes a number"), told.T, strict=False):
        other = int(np.argmax(column != column[0]))
        if other:
            raise ValueError(f"the ranks do not exchange the same: rank 0 brings {column[0]} {what}, rank {other} brings {column[other]}")
    other = int(np.argmax(told[:, 2] != told[0, 2]))
    if other:
        raise ValueError(f"the ranks do not exchange the same way: rank 0 and rank {other} differ; rank {comm.rank} has {how}")
