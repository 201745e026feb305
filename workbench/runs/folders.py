"""Which folder is a run's, and where runs are when it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAMED: Final = 3
"""So many of the newest runs inside are named."""


def run_folder(path: str | Path) -> Path:
    """`path` if it is the folder of a run, else a ValueError that names the runs inside it, newest first."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not the folder of a run: {'it is a file' if path.exists() else 'there is no such folder'}")
    if (path / "job.json").is_file():
        return path
    inside = sorted((child.name for child in path.iterdir() if (child / "job.json").is_file()), reverse=True)
    if not inside:
        raise ValueError(f"{path} is not the folder of a run: it has no job.json")
    named = ", ".join(str(path / name) for name in inside[:NAMED])
    more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
    raise ValueError(f"{path} is not the folder of a run, but runs are in it: {named}{more}")
