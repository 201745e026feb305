"""What the documents promise is there: files they link to, names they import, rooms they list, versions they pin."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.test_rooms import ORDER, ROOT

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
                assert call.func.id in names
                if call.func.id in ("Job", "Ring", "Gossip", "Synchronous"):
                    eval(compile(ast.Expression(call), "README.md", "eval"), dict(names))


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
