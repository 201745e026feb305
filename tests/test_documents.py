"""What the documents promise is there: files they link to, names they import, rooms they list, versions they pin."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import workbench
from tests.strategies.world import NETWORK, RATE, gradient_of, play, start_of
from tests.test_rooms import ORDER, ROOT
from workbench.benchmarks import BENCHMARKS
from workbench.cli.commands import app

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"


def test_the_python_of_the_readme_imports_and_calls_what_there_is() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    names: dict[str, object] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name: getattr(import_module(node.module or ""), alias.name) for alias in node.names}
        else:
            for call in (n for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
                assert isinstance(call.func, ast.Name)
                assert call.func.id in names or hasattr(builtins, call.func.id)
                if call.func.id in ("Job", "Ring", "Gossip", "Synchronous"):
                    eval(compile(ast.Expression(call), "README.md", "eval"), dict(names))


def test_the_python_of_the_readme_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word, but for the length of the runs and real ranks."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(workbench), "Cluster", workbench.VirtualCluster)
    assert "epochs=10" in code
    names: dict[str, Any] = {}
    exec(compile(code.replace("epochs=10", "epochs=2"), "README.md", "exec"), names)
    shown = capsys.readouterr().out
    for words in ("samples per second", "accuracy", "loss", "synchronous", "gossip", "exchange_share"):
        assert words in shown
    assert {name: names["run"].events()["kind"].tolist().count(name) for name in ("change", "end")} == {"change": 4, "end": 4}
    assert names["cluster"].status().state != "up"


def test_the_strategy_of_the_guide_works_as_it_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.S)
    module = ModuleType("spring")
    monkeypatch.setitem(sys.modules, "spring", module)  # where a dataclass looks up the names of its types
    exec(compile(textwrap.dedent("    " + text.lstrip()), "spring.py", "exec"), vars(module))
    Spring = module.Spring
    with pytest.raises(ValueError, match=r"Spring\(pull=1.5\): pull must be a number in \(0, 1\], got 1.5"):
        Spring(pull=1.5)
    assert Spring().seconds(4000, 4, NETWORK) > 0
    trajectories, _ = play(Spring(pull=0.25), 4, 5)
    x = np.stack([start_of(rank) for rank in range(4)]).astype(np.float64)
    for step in range(5):
        x -= RATE * np.stack([gradient_of(rank, step) for rank in range(4)])
        x += 0.25 * (x.mean(axis=0) - x)
        np.testing.assert_allclose(np.stack([t[step + 1] for t in trajectories]), x, rtol=1e-4, atol=1e-6)


def test_make_names_the_benchmarks_that_there_are() -> None:
    (named,) = re.findall(r"for one benchmark \((.*?)\)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert sorted(named.split()) == sorted(BENCHMARKS)


def test_the_changelog_names_the_commands_that_there_are() -> None:
    (named,) = re.findall(r"\* `workbench`: `(.*?)`", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert sorted(named.split()) == sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def test_the_readme_fits_on_one_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_every_make_command_of_the_documents_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = set(re.findall(r"^make ([a-z]+)", text, flags=re.M)) | set(re.findall(r"`make ([a-z]+)`", text))
        assert named <= targets, document.name


def test_the_architecture_lists_the_rooms_in_the_order_that_is_enforced() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = [set(re.findall(r"`([a-z]+)/?`", row)) for row in re.findall(r"^\| (`[^|]*) \|", text, flags=re.M)]
    assert listed == ORDER


def test_every_dependency_is_pinned_to_a_release_that_is_allowed() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if line and not line.startswith("#")}
    extras = project["optional-dependencies"]
    for wanted in map(Requirement, [*project["dependencies"], *extras["test"], *extras["dev"]]):
        name = canonicalize_name(wanted.name)
        if name != "sgd-workbench":
            assert name in pinned, f"{name} is not pinned"
            assert wanted.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {wanted.specifier}"
