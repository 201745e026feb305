"""Who wants to hear of what a feed brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, final

Callback = TypeVar("Callback", bound=Callable[..., Any])


@final
class Listeners(Generic[Callback]):
    """Callbacks that come and go while others are being called: iteration sees those that were there when it began."""

    def __init__(self) -> None:
        self._all: tuple[Callback, ...] = ()

    def add(self, callback: Callback) -> Callable[[], None]:
        """Have `callback` called from now on. Returns the way to end that."""
        self._all = (*self._all, callback)

        def stop() -> None:
            self._all = tuple(other for other in self._all if other is not callback)

        return stop

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._all)
