"""The `workbench` command, for scripts and for clusters without a notebook."""

from __future__ import annotations

import sys
from typing import Final

INTERRUPTED: Final = 130
"""With what typer exits after a Ctrl-C that nobody has caught."""


def main() -> None:
    """Run a command. Exit code 0: it worked, 1: something happened, 2: bad input; neither of these two with a traceback."""
    from rich.markup import escape

    from workbench.cli.commands import app
    from workbench.cli.screen import errors
    from workbench.errors import WorkbenchError

    try:
        # typer exits by itself: 0 when a command worked, 2 when the command line is wrong
        app(prog_name="workbench")
    except ValueError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except (WorkbenchError, OSError) as error:
        errors.print(f"[bold red]failed:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except SystemExit as ending:
        sys.exit(1 if ending.code == INTERRUPTED else ending.code)
