"""A client's connection to the engines: questions to their control threads, and what they push.

Uses names of ipyparallel 9.2 that are not public; `drift.check` says at once when a release has changed them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast, final

import ipyparallel as ipp
from ipykernel.jsonutil import json_clean
from jupyter_client.session import Session

from workbench.channel.drift import check
from workbench.channel.messages import REQUEST, TOPIC
from workbench.errors import ClusterGone

Push = Callable[[dict[str, Any], list[Any]], None]


@final
@dataclass(frozen=True)
class Reply:
    """What an engine answered: `content`, plain values, and `buffers`, bytes."""

    content: dict[str, Any]
    buffers: list[Any]


@final
class Link:
    """A connection to the controller of a cluster, and through it to its engines, by engine number (= rank)."""

    def __init__(self, connection: dict[str, Any], profile_dir: str, timeout: float = 10.0) -> None:
        check()
        try:
            self._client = ipp.Client(connection, profile_dir=profile_dir, timeout=timeout)
        except (OSError, TimeoutError) as error:
            raise ClusterGone(f"the controller of this cluster does not answer: {error}") from error
        # a session of its own: one that has signed messages takes their copies for replays
        session = self._client.session
        self._session = Session(key=session.key, signature_scheme=session.signature_scheme)
        self._pushes: tuple[Push, ...] = ()
        self._changes: tuple[Callable[[bool, int], None], ...] = ()
        self._sending = threading.Lock()
        self._other = self._client._dispatch_iopub
        self._client._io_loop.add_callback(lambda: self._client._iopub_stream.on_recv(self._tap, copy=False))
        self._client._registration_callbacks.append(self._changed)

    @property
    def ranks(self) -> list[int]:
        """The engines that are registered, by number."""
        return sorted(self._client.ids)

    @property
    def open(self) -> bool:
        """Whether `close` has not been called."""
        return not self._client._closed

    def ask(self, what: str, ranks: Iterable[int] | None = None, timeout: float = 3.0, **content: Any) -> dict[int, Reply | None]:
        """Ask engines (all, if not told) and wait for their answers; None for one that does not answer within `timeout` seconds."""
        asked = self.send(what, self.ranks if ranks is None else ranks, **content)
        deadline = time.monotonic() + timeout
        answers: dict[int, Reply | None] = {}
        for rank, future in asked.items():
            # an engine that ends meanwhile never answers
            while not future.wait(min(0.25, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline or rank not in self._client.ids:
                    break
            answers[rank] = reply_of(future)
        return answers

    def send(self, what: str, ranks: Iterable[int], **content: Any) -> dict[int, Any]:
        """Ask without waiting: rank -> a future for `reply_of`. Ranks without an engine are left out."""
        futures = {}
        body = cast(Any, json_clean)({"what": what, **content})
        with self._sending:  # message numbers are counted without a lock
            if self._client._closed:
                raise ClusterGone("the connection to the cluster is closed")
            for rank in ranks:
                ident = self._client._engines.get(rank)
                if ident is not None:
                    futures[rank] = self._client._send(self._client._control_stream, REQUEST, content=body, ident=ident.encode())
        return futures

    def on_push(self, callback: Push) -> Callable[[], None]:
        """Have `callback(content, buffers)` called, on the connection's own thread, for all that engines push. Returns the way to end that."""
        self._pushes = (*self._pushes, callback)

        def stop() -> None:
            self._pushes = tuple(other for other in self._pushes if other is not callback)

        return stop

    def on_change(self, callback: Callable[[bool, int], None]) -> Callable[[], None]:
        """Have `callback(came, rank)` called, on the connection's own thread, when an engine comes or goes. Returns the way to end that."""
        self._changes = (*self._changes, callback)

        def stop() -> None:
            self._changes = tuple(other for other in self._changes if other is not callback)

        return stop

    def shut_down(self) -> None:
        """Ask all engines to end; does not wait."""
        with self._sending:
            self._client.shutdown(targets="all", block=False)

    def signal(self, signal: str, ranks: Iterable[int]) -> None:
        """Send a signal such as "SIGKILL" to single engines through their nannies; does not wait."""
        there = [rank for rank in ranks if rank in self._client.ids]
        if there:
            with self._sending:
                self._client.send_signal(signal, targets=there, block=False)

    def close(self) -> None:
        """Close the connection; the cluster goes on. Closing twice is nothing."""
        with self._sending:
            self._client.close(linger=0)

    def _tap(self, frames: list[Any]) -> None:
        if not frames[0].bytes.startswith(TOPIC):
            self._other(frames)
            return
        _, rest = self._session.feed_identities(frames, copy=False)
        message = self._session.deserialize(rest, copy=False)
        for callback in self._pushes:
            callback(message["content"], message["buffers"])

    def _changed(self, event: dict[str, Any]) -> None:
        for callback in self._changes:
            callback(event["event"] == "register", int(event["id"]))


def reply_of(future: Any) -> Reply | None:
    """The answer, if it is there."""
    if not future.done():
        return None
    with contextlib.suppress(Exception):
        message = future.result()
        return Reply(message["content"], message.get("buffers", []))
    return None
