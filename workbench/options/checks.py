"""What is given for a field becomes its value, or a ValueError with the field, what was given and what is allowed."""

from __future__ import annotations

import math
from typing import Any, Final

from workbench.options.field import Option
from workbench.options.table import entries_allowed, entry

SHOWN: Final = 400
"""Characters of a wrong value that an error message shows."""


def checked(owner: str, described: Option, given: Any) -> Any:
    """`given` as the field's value, or a ValueError with the field, what was given and what is allowed."""
    name = described.name

    def refuse(words: str) -> ValueError:
        return ValueError(f"{owner}({name}={shown(given)}): {name} must be {words}, got {shown(given)}")

    if given is None:
        if described.optional:
            return None
        raise refuse(allowed(described))
    if described.table is not None and described.several:
        if not isinstance(given, (tuple, list)):
            raise ValueError(f"{refuse(allowed(described))}; a single one is given as ({shown(given)},)")
        return tuple(entry(described.table, f"{name}[{index}]", each) for index, each in enumerate(given))
    if described.table is not None:
        return entry(described.table, name, given, described.optional)
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
        return (
            f"a tuple or list, each {entries_allowed(described.table)}" if described.several else entries_allowed(described.table, described.optional)
        )
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
