"""What a run is fed by: the ranks themselves, or the folder that they write."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, final

from workbench.channel.listeners import Listeners
from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.runs.ending import ending_of
from workbench.store import EventReader, Rows, StreamReader, read_source, streams

POLL_SECONDS: Final = 0.3

OnRows = Callable[[str, str, int, Rows], None]
"""Takes (source, table, number of the first row, rows)."""
OnEvent = Callable[[dict[str, Any]], None]

log = logging.getLogger(__name__)


class Feed(Protocol):
    """Where a run's records come from and its commands go to.

    Rows of a (source, table) are numbered from 0 on. Pushes may be lost, doubled or out of order; whoever listens
    sees it from the numbers and pulls. Callbacks are called on the feed's threads.
    """

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows so far, asked of the ranks."""
        ...

    def subscribe(self, callback: OnRows, /) -> Callable[[], None]:
        """Have rows handed over as they come; returns what ends that."""
        ...

    def subscribe_events(self, callback: OnEvent, /) -> Callable[[], None]:
        """Have events handed over as they come; returns what ends that."""
        ...

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """(number of the first, rows) from `since` on; later than `since` when those before are lost."""
        ...

    def command(self, verb: str, options: dict[str, Any]) -> int:
        """Send a numbered command to all ranks: pause, resume, step, change, stop, abort."""
        ...

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Rank -> what it does: state, operation, since_seconds, step, answered."""
        ...

    def finished(self) -> dict[str, Any] | None:
        """None while the run goes on; then {"status", "error", "steps"}."""
        ...


@final
class FolderFeed:
    """Follows a run that another process steers, by its folder alone. It can be watched but not commanded."""

    def __init__(self, folder: Path, poll_seconds: float = POLL_SECONDS) -> None:
        self.folder, self._poll = Path(folder), poll_seconds
        self._readers: dict[Path, StreamReader] = {}
        self._events = EventReader(self.folder)
        self._seen: list[dict[str, Any]] = []
        self._status: list[str] = []
        self._counts: dict[str, dict[str, int]] = {}
        self._on_rows: Listeners[OnRows] = Listeners()
        self._on_event: Listeners[OnEvent] = Listeners()
        self._ended: dict[str, Any] | None = None
        self._changed = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follow {self.folder.name}", daemon=True)

    def start(self) -> None:
        """Read what there is, then follow; subscribe before. RunFolderDamaged."""
        self._read()
        self._thread.start()

    def sources(self) -> dict[str, dict[str, int]]:
        """Source -> table -> rows that are in the folder."""
        return {source: dict(tables) for source, tables in self._counts.items()}

    def subscribe(self, callback: OnRows, /) -> Callable[[], None]:
        """Have rows handed over as they appear in the folder."""
        return self._on_rows.add(callback)

    def subscribe_events(self, callback: OnEvent, /) -> Callable[[], None]:
        """Have events handed over as they appear in the folder."""
        return self._on_event.add(callback)

    def pull(self, source: str, table: str, since: int) -> tuple[int, Rows]:
        """Rows from `since` on, from the disk."""
        return read_source(self.folder, source, table, since)

    def command(self, verb: str, options: dict[str, Any]) -> int:
        """WorkbenchError: whoever started the run steers it."""
        raise WorkbenchError(f"cannot {verb} {self.folder.name}: it was opened from its folder; attach to its cluster to steer it (cluster.run)")

    def beacons(self) -> dict[int, dict[str, Any]]:
        """Nothing: ranks cannot be asked through a folder."""
        return {}

    def finished(self) -> dict[str, Any] | None:
        """How the run ended, once it has; see `ending_of`."""
        return self._ended

    @property
    def damage(self) -> list[str]:
        """What of the folder cannot be read so far; while the run goes on a stream that is just being written is among it."""
        return [*self._events.damage, *self._status, *(reader.torn for reader in self._readers.values() if reader.torn)]

    def close(self) -> None:
        """Stop following."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                ended = ending_of(self.folder, self._seen, self._changed, self._status)
                self._read()  # after the question: what was written before the end is read before it is told
            except RunFolderDamaged as error:
                ended = {"status": "failed", "steps": 0, "error": {"rank": -1, "where": str(error)}}
            except OSError:  # the folder's disk is away for a moment
                log.warning("cannot read %s", self.folder, exc_info=True)
                ended = None
            if ended is not None:
                self._ended = ended
                return
            self._stop.wait(self._poll)

    def _read(self) -> None:
        for event in self._events.read():
            self._seen.append(event)
            self._changed = time.time()
            for tell in self._on_event:
                tell(event)
        for _, _, path in streams(self.folder):
            reader = self._readers.setdefault(path, StreamReader(path))
            for batch in reader.read():
                self._changed = time.time()
                self._counts.setdefault(batch.source, {})[batch.table] = batch.first + len(batch.rows)
                for hand in self._on_rows:
                    hand(*batch)
