"""Commands take seconds: callbacks put them in a lane and return, a thread does one after the other."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

Command = tuple[str, Callable[[], object]]


class Lane:
    """A queue of commands and the daemon thread that does them; the thread starts with the first and ends at `close`.

    When a command fails, those that wait behind it are dropped: they were asked for in the belief that it would work.
    """

    def __init__(self, name: str, done: Callable[[str, Exception | None], None]) -> None:
        self.name = name
        self._done = done
        self._queue: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._lock = threading.Lock()
        self.doing = ""
        """Words for the command that is being done, "" when there is none."""

    def put(self, words: str, command: Callable[[], object]) -> None:
        """Do it when those before it are done."""
        with self._lock:
            self._waiting += 1
            self.doing = self.doing or words
            self._queue.put((words, command))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"workbench-{self.name}", daemon=True)
                self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is being done or waits."""
        return self._waiting > 0

    def close(self) -> None:
        """End once what waits is done."""
        if self._thread is not None:
            self._queue.put(None)

    def _run(self) -> None:
        while (next_one := self._queue.get()) is not None:
            words, command = next_one
            self.doing = words
            failure: Exception | None = None
            try:
                command()
            except Exception as error:
                # to the person at the bench, in words; the traceback is for the log
                log.info("%s failed", words, exc_info=True)
                failure = error
            with self._lock:
                self._waiting -= 1
                if failure is not None:
                    self._drop()
                self.doing = ""
            self._done(words, failure)

    def _drop(self) -> None:
        ended = False
        while not self._queue.empty():
            ended |= self._queue.get() is None
        self._waiting = 0
        if ended:
            self._queue.put(None)
