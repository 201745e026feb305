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

from workbench.options.checks import allowed, shown
from workbench.options.field import Option, Table, option
from workbench.options.table import entry, name_in, unknown_name
from workbench.options.value import Options, options_of, plain

__all__ = ["Option", "Options", "Table", "allowed", "entry", "name_in", "option", "options_of", "plain", "shown", "unknown_name"]
