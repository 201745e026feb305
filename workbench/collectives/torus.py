"""A grid of ranks whose rows and columns are rings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from workbench.collectives.base import Collective, Part, Plan, Steps
from workbench.collectives.passes import ring_all_gather, ring_reduce_scatter
from workbench.comm.network import Network
from workbench.options import option


@final
@dataclass(frozen=True)
class Torus2D(Collective):
    """Average along the rows of a grid, then along its columns what the rows have summed, and back (Mikami et al., 2018).

    On Y rows of X ranks, 2(X-1) + 2(Y-1) messages and the bytes of one ring: the latency grows with the sides of the
    grid, not with P. Columns carry 1/X of the buffer only, where a hierarchy's leaders carry all of it.
    """

    rows: int | None = option(None, minimum=1, help="rows of the grid, which must divide the number of ranks; None: as near to a square as it goes")

    def steps(self, plan: Plan) -> Steps:
        """Reduce-scatter along the row, all-reduce along the column, all-gather along the row."""
        size, rows = plan.comm.size, self._rows(plan.comm.size)
        columns = size // rows
        row, column = divmod(plan.comm.rank, columns)
        across, down = range(row * columns, (row + 1) * columns), range(column, size, columns)
        slabs: list[Part] = [(slab * rows, (slab + 1) * rows) for slab in range(columns)]
        mine = (column + 1) % columns  # the slab whose sum over the row this rank will hold, as will all of its column
        chunks = range(mine * rows, (mine + 1) * rows)
        yield from ring_reduce_scatter(plan, across, slabs)
        yield from ring_reduce_scatter(plan, down, chunks, last=True)
        yield from ring_all_gather(plan, down, chunks)
        yield from ring_all_gather(plan, across, slabs)

    def check(self, size: int) -> None:
        """The rows must divide the ranks."""
        if self.rows is not None and size % self.rows:
            *few, most = (str(rows) for rows in range(1, size + 1) if size % rows == 0)
            allowed = f"{', '.join(few)} or {most}" if few else most
            raise ValueError(f"{self} needs a number of ranks that {self.rows} divides, got {size}; rows may be {allowed}")

    def roundings(self, size: int) -> int:
        """At every hop along a row and down a column, and once at the end."""
        rows = self._rows(size)
        return size // rows + rows - 1

    def seconds(self, nbytes: int, size: int, network: Network) -> float:
        """2(X-1) messages of 1/X of the buffer and 2(Y-1) of 1/P (Mikami et al., 2018)."""
        rows = self._rows(size)
        columns = size // rows
        return 2 * (columns - 1) * network.seconds(nbytes / columns) + 2 * (rows - 1) * network.seconds(nbytes / size)

    def _rows(self, size: int) -> int:
        return self.rows or next(rows for rows in range(math.isqrt(size), 0, -1) if size % rows == 0)
