"""A model on disk: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench import data, models
from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.job import Job
from workbench.store import read_mapping, write_json


def save_model(folder: Path, which: str, module: nn.Module, step: int) -> Path:
    """Write a module's state as checkpoints/{which}-{step}.pt, then point {which}.json at it with its SHA-256.

    Each file appears under its name only when it is complete (temporary file, fsync, rename), so a crash leaves the
    checkpoint before.
    """
    directory = folder / "checkpoints"
    directory.mkdir(exist_ok=True)  # not its parents: a run whose folder was deleted must not bring half of it back
    memory = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}, memory)
    content = memory.getvalue()
    path = directory / f"{which}-{step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # of a full disk it would take the last bytes
    write_json(directory / f"{which}.json", {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "step": step})
    return path


def load_state(folder: Path, which: str = "final") -> dict[str, Any]:
    """The tensors of a checkpoint by name, checked against their SHA-256; code in the file is not run."""
    directory = folder / "checkpoints"
    if not (directory / f"{which}.json").is_file():
        known = sorted(path.stem for path in directory.glob("*.json"))
        there = f"there are: {', '.join(known)}" if known else "the run has written none; it writes one when it ends or is stopped"
        raise ValueError(f"{folder} has no checkpoint {which!r}; {there}")
    described = read_mapping(directory / f"{which}.json")
    name, digest = described.get("file"), described.get("sha256")
    if not isinstance(name, str) or Path(name).name != name or not isinstance(digest, str):
        raise RunFolderDamaged(f"{directory / f'{which}.json'} is damaged: it must name a file beside it and that file's SHA-256")
    path = directory / name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunFolderDamaged(f"{path} does not hold what was written (its SHA-256 differs from {which}.json)")
    return dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))


def load_model(folder: Path, which: str = "final") -> nn.Module:
    """The trained module of a run, on the CPU, in eval mode: "final", "centre", or "rank-00003" for that worker's own.

    The user's code is imported as it is found; `Run.model` sees to it that it is the code of the run.
    """
    job = Job.load(folder)
    state = load_state(folder, which)
    module = models.build(job.model, job.model_options, data.load(job.data, job.data_options, job.seed), job.seed)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # of code that is installed nobody knows what it looked like
        raise WorkbenchError(f"the parameters of {folder.name} do not fit the model that {job.model!r} builds now: {error}") from error
    return module.eval()
