"""Run folders and the JSON files in them, which are either whole or not there."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.errors import RunFolderDamaged
from workbench.store.log import plain


def create_run_folder(root: Path, label: str) -> Path:
    """A new folder for a run, such as runs/2026-11-21-101502-synchronous-ring; never one that is there already."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    words = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}" + (f"-{words}" if words else "")
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        (folder / "checkpoints").mkdir()
        return folder


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file in one go: after a crash it holds either what it held before or `data`."""
    path = Path(path)
    file, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(plain(data), stream, indent=2, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_json(path: Path) -> Any:
    """What a JSON file holds; RunFolderDamaged when it cannot be read, FileNotFoundError when it is not there."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise RunFolderDamaged(f"{path} is not JSON: {error}") from error
    except IsADirectoryError as error:
        raise RunFolderDamaged(f"{path} is a folder and not a file") from error


def read_mapping(path: Path, whole: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON object that a file holds; RunFolderDamaged when it is none, or holds something else than a whole number or null under `whole`."""
    told = read_json(path)
    if not isinstance(told, dict):
        raise RunFolderDamaged(f"{path} is damaged: it must hold a JSON object, got {type(told).__name__}")
    wrong = next((name for name in whole if not is_whole(told.get(name))), None)
    if wrong is not None:
        raise RunFolderDamaged(f"{path} is damaged: {wrong!r} must be a whole number, got {str(told[wrong])[:80]!r}")
    return told


def is_whole(value: Any) -> bool:
    """Whether a value from a JSON file is a whole number that the tables can hold, or null."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63)


def _umask() -> int:
    """The umask of the process, which mkstemp ignores."""
    with suppress(OSError, ValueError, IndexError):  # reading it from /proc does not change it for other threads
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
