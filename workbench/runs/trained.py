"""The trained model of a run in this process, built from the user's code as it was when the run was started."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workbench.callables import modules_under
from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.job import Job
from workbench.store import read_mapping

if TYPE_CHECKING:
    from torch import nn

ABOVE: Final = 3
"""So many folders above that of a run are looked through for its modules: runs lie in `runs`, beside the notebook."""
MARK: Final = "__workbench_code__"
"""Attribute of a module that was imported here: the folder it came from and the SHA-256 of its file."""


def trained_model(folder: Path, which: str) -> nn.Module:
    """The model of a run on the CPU, in eval mode. WorkbenchError when the code it needs is gone or has changed since."""
    from workbench.training.checkpoint import load_model

    folder = folder.absolute()  # building happens in another one
    job = Job.load(folder)
    recorded: Mapping[str, str] = read_mapping(folder / "job.json").get("modules") or {}
    paths = [path for path in (job.model, job.data) if ":" in path]
    if not any(path.partition(":")[0] in recorded for path in paths):
        return load_model(folder, which)  # built in, or installed: found by its name wherever one is
    place, modules = _code_of(folder, paths, recorded)
    with _imported_from(place, modules):
        return load_model(folder, which)


def _code_of(folder: Path, paths: list[str], recorded: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """The folder that has the modules of `paths` as they were, and their digests. WorkbenchError if there is none."""
    wanted = [path.partition(":")[0] for path in paths if path.partition(":")[0] in recorded]
    changed: tuple[Path, list[str]] | None = None
    places = _places(folder)
    for place in places:
        found = modules_under(place, paths)
        if not set(wanted) <= set(found):
            continue
        differing = [name for name, digest in found.items() if recorded.get(name) != digest]
        if not differing:
            return place, found
        changed = changed or (place, differing)
    kept = f"the trained parameters are in {folder / 'checkpoints'}"
    if changed is not None:
        place, names = changed
        files = ", ".join(_file_words(name) for name in names)
        have = "have" if len(names) > 1 else "has"
        raise WorkbenchError(
            f"{files} in {place} {have} changed since this run ({folder.name}), so its model cannot be built as it was trained: "
            f"put back what it was, or train again; {kept}"
        )
    files = " or ".join(_file_words(name) for name in wanted)
    raise WorkbenchError(f"{files}, which the model of {folder.name} is built from, is in none of {', '.join(map(str, places))}; {kept}")


def _places(folder: Path) -> list[Path]:
    """Where the run was started, as far as its folder tells; else here, and the folders around that of the run."""
    try:
        told = read_mapping(folder / "cluster.json").get("directory")
    except (FileNotFoundError, RunFolderDamaged):
        told = None
    places = [Path(told)] if told else []
    places += [Path.cwd(), *folder.parents[:ABOVE]]
    return list(dict.fromkeys(places))


@contextmanager
def _imported_from(place: Path, modules: Mapping[str, str]) -> Iterator[None]:
    """Import `modules` as they are in `place` now, as the ranks do, and be in that folder meanwhile.

    They belong together: when one of them was imported from elsewhere, or from a file that has changed since, all are
    imported again. Only these are touched: this process is a notebook's, whose other modules are its own.
    """
    loaded = {name: sys.modules[name] for name in modules if name in sys.modules}
    if any(vars(module).get(MARK) != (str(place), modules[name]) for name, module in loaded.items()):
        for name in loaded:
            del sys.modules[name]
    here = os.getcwd()
    sys.path.insert(0, str(place))
    os.chdir(place)
    importlib.invalidate_caches()
    try:
        yield
        for name in modules.keys() & sys.modules.keys():
            setattr(sys.modules[name], MARK, (str(place), modules[name]))
    finally:
        os.chdir(here)
        sys.path.remove(str(place))


def _file_words(name: str) -> str:
    return f"{name.replace('.', '/')}.py"
