"""Messages between a notebook and the process of a virtual world: pickled, each behind its length, over two pipes.

Both ends are this package in the same environment, and the pipes belong to them alone.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import threading
from typing import IO, Any, final

_LENGTH = struct.Struct(">Q")


@final
class Frames:
    """One end of the two pipes."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, from any thread. OSError or ValueError when the other end is gone."""
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._outgoing.write(_LENGTH.pack(len(data)))
            self._outgoing.write(data)
            self._outgoing.flush()

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other end is gone. For one thread."""
        head = self._incoming.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        data = self._incoming.read(length)
        if len(data) < length:
            return None
        message: dict[str, Any] = pickle.loads(data)
        return message

    def close(self) -> None:
        """Say to the other end that no more will come."""
        with contextlib.suppress(OSError):  # what is in the buffer has nobody to go to
            self._outgoing.close()
