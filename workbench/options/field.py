"""One field: what it accepts, and what a form or a help text says of it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Table = Mapping[str, Any]
"""Name -> class."""


def option(
    default: Any,
    *,
    help: str,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Iterable[Any] | None = None,
    table: Table | None = None,
    step: float | None = None,
    group: str = "",
) -> Any:
    """A dataclass field that knows what it accepts.

    `minimum` and `maximum` are inclusive bounds, `above` an exclusive lower bound. `choices` lists the values
    allowed. `table` says that the field holds an entry of a table (name -> class), or a tuple of them where its type is
    one: a name or a JSON object given for an entry is turned into the value. `step` is the increment of a form's arrows; `group` its heading there.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "choices": tuple(choices) if choices is not None else None,
        "table": table,
        "step": step,
        "group": group,
    }
    if isinstance(default, (dict, list)):
        copied = default
        return dataclasses.field(default_factory=lambda: type(copied)(copied), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """What a form or a help text needs to know of one field."""

    name: str
    type: Any
    default: Any
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    above: float | None
    choices: tuple[Any, ...] | None
    table: Table | None
    step: float | None
    group: str

    @property
    def optional(self) -> bool:
        """Whether None is a value of this field."""
        return type(None) in typing.get_args(self.type)

    @property
    def several(self) -> bool:
        """Whether the field holds a tuple of entries of its table."""
        return self.table is not None and self.kind is tuple

    @property
    def kind(self) -> type:
        """The plain Python type of the field: bool, int, float, str, dict, tuple or object."""
        kinds = typing.get_args(self.type) if _is_union(self.type) else (self.type,)
        plain = [typing.get_origin(kind) or kind for kind in kinds if kind is not type(None)]
        if plain and isinstance(plain[0], type):
            return plain[0]
        return str if plain and plain[0] is typing.Literal else object


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
