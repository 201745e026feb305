"""Values that check themselves when they are made, and become JSON and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

from workbench.options.checks import checked
from workbench.options.field import Option, Table
from workbench.options.table import name_in, unknown_name


class Options:
    """Base of every value that a person can choose: checks its fields when it is made."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __new__(cls, *given: Any, **named: Any) -> typing.Self:
        """Before the fields are set: an unknown keyword is a ValueError that names the nearest known ones."""
        names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        for name in named:
            if name not in names:
                raise ValueError(unknown_name("option", name, names, of=cls.__name__))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for described in options_of(type(self)):
            given = getattr(self, described.name)
            value = checked(type(self).__name__, described, given)
            if value is not given:
                object.__setattr__(self, described.name, value)

    def replace(self, **changes: Any) -> typing.Self:
        """The same value with some fields changed; checked like a new one."""
        unknown = set(changes) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            raise ValueError(unknown_name("option", sorted(unknown)[0], [f.name for f in dataclasses.fields(self)], of=type(self).__name__))
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; entries of tables become {"kind": name, ...}."""
        return {described.name: plain(getattr(self, described.name), described.table) for described in options_of(type(self))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> typing.Self:
        """The value that `to_json` wrote; an unknown field is a ValueError that names it."""
        if not isinstance(data, Mapping):
            raise ValueError(f"{cls.__name__} is described by a JSON object, got {type(data).__name__}")
        names = [described.name for described in options_of(cls)]
        for name in data:
            if name not in names:
                raise ValueError(unknown_name("field", name, names, of=cls.__name__))
        return cls(**data)


def options_of(cls: type) -> tuple[Option, ...]:
    """The options of a class in the order of its fields."""
    cached: tuple[Option, ...] | None = cls.__dict__.get("_options")
    if cached is None:
        hints = typing.get_type_hints(cls)
        cached = tuple(
            Option(name=field.name, type=hints[field.name], default=_default(field), **field.metadata)
            for field in dataclasses.fields(cls)
            if "help" in field.metadata
        )
        cls._options = cached  # type: ignore[attr-defined]
    return cached


def plain(value: Any, table: Table | None) -> Any:
    """The value of a field as JSON: an entry of its table with its name there, a tuple as a list."""
    if isinstance(value, tuple):
        return [plain(each, table) for each in value]
    if isinstance(value, Options):
        return value.to_json() if table is None else {"kind": name_in(table, value), **value.to_json()}
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
