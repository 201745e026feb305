"""The course runs from top to bottom, calls the package, defines nothing and keeps no outputs."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import nbformat
import pytest

from workbench import Cluster

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUNS = {"01-first-run.ipynb": 3, "02-exchange.ipynb": 7, "03-waiting.ipynb": 8}
"""How many runs each leaves behind."""


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_defines_nothing_and_stores_nothing(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], "clear the outputs before saving"
            assert cell.execution_count is None
            code = compile(cell.source, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            defined = [node for node in ast.walk(code) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))]
            assert defined == [], "what a notebook needs belongs in the package"
            assert cell.source.count("\n") < 12, "a cell is one thought"


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    shutil.copy(path, tmp_path)
    for place in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(place, str(tmp_path / place.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}, store_widget_state=False)
    try:
        client.execute()
    finally:
        Cluster().stop()
    printed = "\n".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "widget-view" in printed
    assert len(list((tmp_path / "runs").iterdir())) == RUNS[path.name]
    assert os.environ["IPYTHONDIR"].startswith(str(tmp_path))
