"""What went wrong on a rank, in plain words."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Any, Final

from workbench.errors import PeerLost

NOT_THE_USERS: Final = (Path(__file__).parents[1], *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
"""Folders whose code a user has not written: this package, Python and what is installed into it."""


def failure(error: BaseException) -> dict[str, Any]:
    """An error as plain words: its type, its message, where in the user's code it was raised (else where at all), and the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in NOT_THE_USERS)]
    last = (users or frames)[-1:]
    where = "".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last)
    return {
        "error": type(error).__name__,
        "message": str(error),
        "where": where,
        "lost": error.rank if isinstance(error, PeerLost) else None,
        "traceback": "".join(traceback.format_exception(error)),
    }
