"""What a cluster is and runs on, for a person to see."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Final, final

from workbench.comm.network import Network

DETACHED: Final = "up, not attached"


@final
@dataclass(frozen=True)
class RankStatus:
    """One rank: where it runs and how its buffers travel. `pid` is 0 for a rank that does not answer."""

    rank: int
    host: str = ""
    pid: int = 0
    device: str = ""
    role: str = "worker"
    transport: str = ""
    state: str = "idle"


@final
@dataclass(frozen=True)
class ClusterStatus:
    """A cluster: `state` is "up", "down", "up, not attached" (this process has no connection to it), or "damaged" when it needs a restart."""

    name: str
    ranks: int | None
    launcher: str
    state: str
    mpi: str = ""
    rows: list[RankStatus] = field(default_factory=list)
    note: str = ""
    network: Network | None = None
    """The emulated link that the runs of this cluster object go over; None: the real one."""
    apart: bool = False
    """Whether the ranks were started with another link, or none."""

    @property
    def attached(self) -> bool:
        """Whether the ranks can be talked to from here."""
        return self.state not in ("down", DETACHED)

    @property
    def missing(self) -> list[int]:
        """The ranks that are not there."""
        return [row.rank for row in self.rows if row.state == "missing"]

    def __str__(self) -> str:
        lines = [self._head()]
        table = [("rank", "state", "host", "pid", "device", "role", "transport"), *self._cells()]
        if self.rows:
            widths = [max(len(row[column]) for row in table) for column in range(7)]
            lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join(lines + ([self.note] if self.note else []))

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("rank", "state", "host", "pid", "device", "role", "transport"))
        body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self._cells())
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.rows else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return f"<p>{html.escape(self._head())}</p>{table}{note}"

    def _head(self) -> str:
        ranks = "" if self.ranks is None else f", {self.ranks} rank{'s' if self.ranks != 1 else ''}"
        link = f"emulated link of {self.network.words}" if self.network is not None else ""
        facts = [f"launcher {self.launcher}", self.mpi, f"{link or 'real links'} for the runs of this object alone" if self.apart else link]
        return f"cluster {self.name!r}: {self.state}{ranks}, {', '.join(filter(None, facts))}"

    def _cells(self) -> list[tuple[str, ...]]:
        return [(str(r.rank), r.state, r.host, str(r.pid or ""), r.device, r.role, r.transport) for r in self.rows]


def some_ranks(ranks: list[int]) -> str:
    """ "rank 3 is", "ranks 1, 3 are" """
    return f"rank {ranks[0]} is" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} are"
