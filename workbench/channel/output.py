"""What the user's code prints on a rank goes into the run's folder."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import final


@contextlib.contextmanager
def output_to(folder: Path, rank: int) -> Iterator[None]:
    """While inside, standard output and error are rank-00000.out and .err in `folder`, made with the first line."""
    before = sys.stdout, sys.stderr
    out, err = Lines(folder / f"rank-{rank:05d}.out"), Lines(folder / f"rank-{rank:05d}.err")
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        out.flush()
        err.flush()


@final
class Lines(io.TextIOBase):
    """A text file that whole lines reach at once, each in one write.

    It is opened for each of them: somebody's logger may hold on to it when the run is long over.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._text = path, ""
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the file."""
        return "utf-8"

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Write `text`; what follows the last line end waits for the next one, or for `flush`."""
        with self._lock:
            whole, end, rest = (self._text + text).rpartition("\n")
            self._text = rest
            self._append(whole + end)
        return len(text)

    def flush(self) -> None:
        """Write what waits for its line end."""
        with self._lock:
            text, self._text = self._text, ""
            self._append(text)

    def _append(self, text: str) -> None:
        if text:
            with contextlib.suppress(OSError):  # a full disk must not end a training because of a print
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                try:
                    os.write(file, text.encode("utf-8", "backslashreplace"))
                finally:
                    os.close(file)
