"""Entries of a table (name -> class): what a name or a JSON object stands for, and the words for one that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from workbench.options.field import Table


def entry(table: Table, what: str, given: Any, optional: bool = False) -> Any:
    """The value that `given` stands for: a value itself, a name of the table, or {"kind": name, ...options}; None where that is `optional`."""
    if given is None and optional:
        return None
    if isinstance(given, str):
        if given not in table:
            raise ValueError(unknown_name(what, given, table))
        return table[given]()
    if isinstance(given, Mapping):
        if "kind" not in given:
            known = ", ".join(map(repr, table))
            raise ValueError(f'{what}={dict(given)!r}: "kind" is missing, which says which {what} it is: one of {known}')
        kind = str(given["kind"])
        if kind not in table:
            raise ValueError(unknown_name(what, kind, table))
        return table[kind].from_json({name: value for name, value in given.items() if name != "kind"})
    if isinstance(given, type) and given in table.values():
        raise ValueError(f"{what}={given.__name__}: {what} must be a value, got the class; did you mean {given.__name__}()?")
    if not isinstance(given, tuple(cls for cls in table.values() if isinstance(cls, type))):
        raise ValueError(f"{what} must be {entries_allowed(table, optional)}, got {given!r}")
    return given


def entries_allowed(table: Table, optional: bool = False) -> str:
    """The words for what a field with an entry of a table allows."""
    return f"one of {', '.join(map(repr, table))} or a value of one of their classes{', or None' if optional else ''}"


def name_in(table: Table, value: Any) -> str:
    """The name under which a value's class stands in a table."""
    for name, cls in table.items():
        if type(value) is cls:
            return name
    raise ValueError(f"{type(value).__name__} is in no table; add it to the table of its folder")


def unknown_name(what: str, given: Any, known: Iterable[str], of: str = "") -> str:
    """The words for a name that nobody knows, with the nearest known ones."""
    names = list(known)
    near = difflib.get_close_matches(str(given), names, n=2, cutoff=0.5)
    near = near or [name for name in names if str(given) == "".join(word[:1] for word in name.split("_"))]  # lr: learning_rate
    guess = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    where = f"{of} has no {what} {given!r}" if of else f"unknown {what} {given!r}"
    return f"{where}{guess} (known: {', '.join(names)})"
