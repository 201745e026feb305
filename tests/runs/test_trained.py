from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.errors import RunFolderDamaged, WorkbenchError
from workbench.job import Job
from workbench.runs.run import Run
from workbench.store import write_json
from workbench.training.checkpoint import load_state, save_model

NET = """
import torch
from mylayers import WIDTH

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, WIDTH)
"""


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    yield
    for name in ("mynet", "mylayers"):
        sys.modules.pop(name, None)


def write(folder: Path, width: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "mynet.py").write_text(NET)
    (folder / "mylayers.py").write_text(f"WIDTH = {width}\n")


def trained(home: Path, name: str, width: int, directory: bool = False) -> Run:
    """The folder of a run whose ranks had the code that lies in `home` now."""
    import torch

    folder = home / "runs" / name
    folder.mkdir(parents=True)
    job = Job(model="mynet:Net")
    write_json(folder / "job.json", {**job.to_json(), "modules": job.modules(home)})
    write_json(folder / "cluster.json", {"directory": str(home)} if directory else {})
    write_json(folder / "status.json", {"status": "done", "steps": 1, "error": None})
    module = torch.nn.Module()
    module.layer = torch.nn.Linear(64, width)
    save_model(folder, "final", module, 1)
    return Run.open(folder)


def width(run: Run) -> int:
    module = run.model()
    assert not module.training
    return int(module.layer.out_features)


def test_the_model_is_built_from_the_code_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)
    write(tmp_path, 3)
    assert width(trained(tmp_path, "a", 3)) == 3
    write(tmp_path, 5)
    run = trained(tmp_path, "b", 5)
    assert width(run) == 5
    assert type(run.model()) is type(run.model())  # nothing is imported again where nothing has changed
    assert Path.cwd() == tmp_path
    assert sys.path == paths


def test_the_code_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(home, 3)
    near, told = trained(home, "a", 3), trained(home, "b", 3, directory=True)
    monkeypatch.chdir(elsewhere)
    assert width(near) == 3
    # what the run's own record says comes first, wherever the run's folder has gone
    far = elsewhere / "x" / "y" / "z" / "b"
    far.parent.mkdir(parents=True)
    told.folder.rename(far)
    assert width(Run.open(os.path.relpath(far))) == 3
    assert Path.cwd() == elsewhere


def test_code_that_has_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 3)
    run = trained(tmp_path, "a", 3)
    write(tmp_path, 5)
    with pytest.raises(WorkbenchError, match=r"^mylayers\.py in \S+ has changed since this run \(a\)"):
        run.model()
    write(tmp_path, 3)
    assert width(run) == 3
    (tmp_path / "mynet.py").unlink()
    with pytest.raises(WorkbenchError, match=r"mynet\.py, which the model of a is built from, is in none of"):
        run.model()


def test_parameters_that_do_not_fit_are_said(tmp_path: Path) -> None:
    """Of an installed model nothing is recorded."""
    import torch

    folder = tmp_path / "run"
    folder.mkdir()
    job = Job(model="torch.nn:Linear", model_options={"in_features": 64, "out_features": 3})
    write_json(folder / "job.json", {**job.to_json(), "modules": {}})
    write_json(folder / "status.json", {"status": "done", "steps": 1, "error": None})
    save_model(folder, "final", torch.nn.Linear(64, 5), 1)
    with pytest.raises(WorkbenchError, match=r"the parameters of run do not fit the model that 'torch\.nn:Linear' builds now"):
        Run.open(folder).model()


@pytest.mark.parametrize(
    "told", ["[]", "{}", '{"file": "final-00000003.pt"}', '{"file": "../../job.json", "sha256": ""}', '{"file": 5, "sha256": ""}']
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, told: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "final.json").write_text(told)
    with pytest.raises(RunFolderDamaged, match=r"final\.json is damaged"):
        load_state(tmp_path)
