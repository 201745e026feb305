"""Where the command line prints: results to the standard output, errors and hints to the standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table


def _width(terminal: bool) -> int | None:
    """A log is wider than the 80 columns that Rich takes where there is no terminal."""
    return None if terminal or "COLUMNS" in os.environ else 120


output: Final = Console(highlight=False, width=_width(sys.stdout.isatty()))
errors: Final = Console(stderr=True, highlight=False, width=_width(sys.stderr.isatty()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str]) -> Table:
    """A table; the columns named in `words` are text, which is broken where there is no room, the others are flush right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        text = name in words
        drawn.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in rows:
        drawn.add_row(*row)
    return drawn
