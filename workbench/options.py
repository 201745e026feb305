"""Options: the fields of a frozen dataclass, each with a default, bounds, a unit and one line of help.

Strategies, collectives, wires, networks and jobs are *values*: frozen dataclasses that derive from `Options` and
declare every field with `option(...)`. The form in the notebook, the command line, JSON, the documentation and
the checks all read those fields; there is no second list of them anywhere.

    @final
    @dataclass(frozen=True)
    class Gossip(Options):
        every: int = option(1, minimum=1, unit="steps", help="local steps between two pulls")

    Gossip(every=0)       # ValueError: Gossip(every=0): every must be a whole number of at least 1, got 0
    Gossip(evry=2)        # ValueError: Gossip has no option 'evry'; did you mean 'every'? (known: every)
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

Table = Mapping[str, Any]

SHOWN: Final = 400
"""Characters of a wrong value that an error message shows."""


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
    allowed. `table` says that the field holds an entry of a table (name -> class): a name or a JSON object given
    for it is turned into the value. `step` is the increment of a form's arrows; `group` its heading there.
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
    def kind(self) -> type:
        """The plain Python type of the field: bool, int, float, str, dict, tuple or object."""
        kinds = typing.get_args(self.type) if _is_union(self.type) else (self.type,)
        plain = [typing.get_origin(kind) or kind for kind in kinds if kind is not type(None)]
        if plain and isinstance(plain[0], type):
            return plain[0]
        return str if plain and plain[0] is typing.Literal else object


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
            value = _checked(type(self).__name__, described, given)
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
        result: dict[str, Any] = {}
        for described in options_of(type(self)):
            value = getattr(self, described.name)
            if isinstance(value, Options) and described.table is not None:
                result[described.name] = {"kind": name_in(described.table, value), **value.to_json()}
            elif isinstance(value, Options):
                result[described.name] = value.to_json()
            elif isinstance(value, tuple):
                result[described.name] = [entry.to_json() if isinstance(entry, Options) else entry for entry in value]
            else:
                result[described.name] = value
        return result

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


def entry(table: Table, what: str, given: Any) -> Any:
    """The value that `given` stands for: a value itself, a name of the table, or {"kind": name, ...options}."""
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
        raise ValueError(f"{what} must be one of {', '.join(map(repr, table))} or a value of one of their classes, got {given!r}")
    return given


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


def _checked(owner: str, described: Option, given: Any) -> Any:
    """`given` as the field's value, or a ValueError with the field, what was given and what is allowed."""
    name = described.name

    def refuse(words: str) -> ValueError:
        return ValueError(f"{owner}({name}={shown(given)}): {name} must be {words}, got {shown(given)}")

    if given is None:
        if described.optional:
            return None
        raise refuse(allowed(described))
    if described.table is not None:
        return entry(described.table, name, given)
    if described.choices is not None:
        if given not in described.choices:
            raise refuse(allowed(described))
        return given
    kind = described.kind
    if kind in (int, float):
        # numbers.Integral of NumPy and plain ints alike; a bool is not a number here, it is a typing mistake
        if isinstance(given, bool) or not hasattr(given, "__float__") or isinstance(given, str) or getattr(given, "ndim", 0) != 0:
            raise refuse(allowed(described))
        try:
            value = float(given)
        except OverflowError:
            raise refuse(f"{allowed(described)} that fits in 64 bits") from None
        except (TypeError, ValueError):
            raise refuse(allowed(described)) from None
        if not math.isfinite(value) or (kind is int and not value.is_integer()):
            raise refuse(allowed(described))
        if described.above is not None and not value > described.above:
            raise refuse(allowed(described))
        if described.minimum is not None and value < described.minimum:
            raise refuse(allowed(described))
        if described.maximum is not None and value > described.maximum:
            raise refuse(allowed(described))
        if kind is int and not -(2**63) <= int(given) < 2**63:
            raise refuse(f"{allowed(described)} that fits in 64 bits")
        plain = int(given) if kind is int else value
        return given if type(given) is kind else plain
    if kind in (bool, str, dict) and not isinstance(given, kind):
        raise refuse(allowed(described))
    if kind is tuple and isinstance(given, list):
        return tuple(given)
    return given


def shown(given: Any) -> str:
    """What was given, as an error message shows it: on a few lines at most, whatever it is."""
    try:
        text = repr(given)
    except (ValueError, RecursionError):  # more digits than Python writes; nested too deeply
        return f"{type(given).__name__} that is too long to show"
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 4 :]}"


def allowed(described: Option) -> str:
    """The words for what a field allows: "a number in (0, 1]", "a whole number of at least 1", ..."""
    if described.table is not None:
        return f"one of {', '.join(map(repr, described.table))} or a value of one of their classes"
    if described.choices is not None:
        return f"one of {', '.join(repr(str(choice)) for choice in described.choices)}"
    plain = {tuple: "a list", bool: "True or False", str: "a string", dict: "a dict"}
    if described.kind in plain:
        return plain[described.kind]
    number = "a whole number" if described.kind is int else "a number"
    low, high, above = described.minimum, described.maximum, described.above
    if high is not None and (above is not None or low is not None):
        least = f"({_short(above)}" if above is not None else f"[{_short(low or 0)}"
        words = f"{number} in {least}, {_short(high)}]"
    elif above is not None:
        words = f"{number} above {_short(above)}"
    elif low is not None:
        words = f"{number} of at least {_short(low)}"
    elif high is not None:
        words = f"{number} of at most {_short(high)}"
    else:
        words = number
    return words + (" or None" if described.optional else "")


def _short(bound: float) -> str:
    return f"{bound:g}" if float(f"{bound:g}") == bound else str(bound)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
