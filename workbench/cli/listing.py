"""`workbench options`: what can be chosen, from the tables and the fields that the checks read too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.markup import escape

from workbench.cli.screen import output, table
from workbench.collectives import COLLECTIVES
from workbench.comm.network import Device, Network
from workbench.data import DATA
from workbench.faults import FAULTS
from workbench.job import Job
from workbench.models import MODELS
from workbench.options import Option, Options, allowed, name_in, options_of, unknown_name
from workbench.recipes import OUTERS
from workbench.strategies import STRATEGIES
from workbench.wires import WIRES

GROUPS: Final[Mapping[str, Mapping[str, type[Options]]]] = {
    "jobs": {"job": Job},
    "strategies": STRATEGIES,
    "collectives": COLLECTIVES,
    "wires": WIRES,
    "outer optimizers": OUTERS,
    "faults": FAULTS,
    "models": MODELS,
    "data": DATA,
    "networks and devices": {"network": Network, "device": Device},
}
"""Heading -> name -> what stands under that name."""
HEAD: Final = ("option", "default", "allowed", "what it is")


def show(name: str | None) -> None:
    """Print one entry, one group, or everything. ValueError for a name that is neither."""
    entries = {entry: cls for group in GROUPS.values() for entry, cls in group.items()}
    if name is None:
        for group, members in GROUPS.items():
            output.print(f"[bold underline]{group}[/]\n")
            _show_all(members)
    elif name in GROUPS:
        _show_all(GROUPS[name])
    elif name in entries:
        _show_all({name: entries[name]})
    else:
        raise ValueError(unknown_name("name", name, [*GROUPS, *entries]))


def _show_all(members: Mapping[str, type[Options]]) -> None:
    for name, cls in members.items():
        output.print(f"[bold]{name}[/]  {escape((cls.__doc__ or '').partition(chr(10))[0])}", soft_wrap=True)
        described = options_of(cls)
        if described:
            output.print(table(HEAD, map(_row, described), words=HEAD))
        if cls is Network:
            output.print(f"by name: {'; '.join(f'{preset} is {Network.of(preset).words}' for preset in Network.PRESETS)}", highlight=False)
        output.print()


def _row(described: Option) -> tuple[str, ...]:
    if described.table is not None:
        default = name_in(described.table, described.default) if isinstance(described.default, Options) else _plain(described.default)
        may_be = f"{'a list of' if described.several else 'one of'} {', '.join(described.table)}{' or None' if described.optional else ''}"
    else:
        default, may_be = _plain(described.default), allowed(described)
    unit = f" ({described.unit})" if described.unit else ""
    return described.name, escape(default), escape(f"{may_be}{unit}"), escape(described.help)


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
