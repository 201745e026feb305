"""Dicts and lists that cannot be changed: they compare, print, pickle and become JSON as plain ones do, and can be hashed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Never, final


def _refuse(self: object, *given: Any, **named: Any) -> Never:
    raise TypeError("the options of a job cannot be changed; make another job: job.replace(model_options={**job.model_options, ...})")


@final
class FrozenDict(dict[str, Any]):
    """A dict of frozen values. TypeError for whoever changes it; `dict(it)` is a copy that can be changed."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)  # not entry by entry, as pickle and copy fill a dict


@final
class FrozenList(list[Any]):
    """A list of frozen values. TypeError for whoever changes it; `list(it)` is a copy that can be changed."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


def frozen(value: Any) -> Any:
    """A JSON value with its dicts and lists frozen, at every depth."""
    if isinstance(value, Mapping):
        return FrozenDict({name: frozen(entry) for name, entry in value.items()})
    return FrozenList(map(frozen, value)) if isinstance(value, list) else value


def thawed(value: Any) -> Any:
    """The same value as plain dicts and lists of its own, which whoever gets it may change."""
    if isinstance(value, Mapping):
        return {name: thawed(entry) for name, entry in value.items()}
    return list(map(thawed, value)) if isinstance(value, list) else value
