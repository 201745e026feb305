"""The plan of the house, enforced: which room may import which, how long a module may be, what it may not be called."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE, WIDGETS = ROOT / "workbench", ROOT / "widgets"

ORDER = [
    {"options"},
    {"frozen"},
    {"errors"},
    {"callables"},
    {"telemetry"},
    {"drift"},
    {"store"},
    {"arena"},
    {"comm"},
    {"wires"},
    {"collectives"},
    {"recipes"},
    {"strategies"},
    {"faults"},
    {"models", "data", "presets"},
    {"job"},
    {"training"},
    {"channel"},
    {"plots"},
    {"runs"},
    {"cluster"},
    {"benchmarks", "lab"},
    {"cli"},
]
"""A room imports only rooms above it (and its own); rooms on one line may import each other."""

PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
MODULES = sorted(HOUSE.rglob("*.py"))
WIDGET_MODULES = sorted(WIDGETS.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, as an absolute name, and the line."""
    root = HOUSE if file.is_relative_to(HOUSE) else WIDGETS
    package = ["workbench" if root is HOUSE else "workbench_widgets", *file.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])] if node.level else [node.module or ""]
            yield from ((f"{'.'.join(base)}.{alias.name}", node.lineno) for alias in node.names)


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_a_room_imports_only_rooms_above_it(file: Path) -> None:
    room = room_of(file)
    if room in ("__init__", "__main__"):
        return
    assert room in PLACE, f"{name(file)} is in no room of the plan; add it to ORDER here, to ARCHITECTURE.md, and say why"
    for imported, line in imports(file):
        parts = imported.split(".")
        if parts[0] == "workbench" and len(parts) > 1:
            other = parts[1]
            if other not in PLACE:
                continue  # `from workbench import Job`: the face; caught below
            assert other == room or PLACE[other] <= PLACE[room], f"{name(file)}:{line} imports {imported}, a room below its own"


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_the_house_imports_neither_its_face_nor_widgets(file: Path) -> None:
    for imported, line in imports(file):
        top, _, rest = imported.partition(".")
        assert top not in ("workbench_widgets", "widgets", "ipywidgets", "anywidget"), f"{name(file)}:{line} imports {imported}: only widgets/ may"
        if top == "workbench" and room_of(file) != "__init__":
            assert rest.split(".")[0] in PLACE or rest == "__version__", f"{name(file)}:{line}: import {imported} from the module that defines it"


@pytest.mark.parametrize("file", [f for f in MODULES if room_of(f) in ("wires", "collectives", "recipes", "strategies", "faults")], ids=name)
def test_what_is_a_value_holds_no_clock_no_thread_no_logger_and_no_mpi(file: Path) -> None:
    for imported, line in imports(file):
        assert imported.split(".")[0] not in ("time", "threading", "logging", "mpi4py", "ipyparallel", "asyncio"), (
            f"{name(file)}:{line} imports {imported}"
        )


@pytest.mark.parametrize("file", [*MODULES, *WIDGET_MODULES], ids=name)
def test_a_module_holds_one_idea(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{name(file)} has {lines} lines; past 300 it holds two ideas"


@pytest.mark.parametrize("file", [*MODULES, *WIDGET_MODULES], ids=name)
def test_names_say_what_a_thing_is(file: Path) -> None:
    for banned in ("utils", "util", "common", "helpers", "helper", "manager", "misc"):
        assert banned not in (part.removesuffix(".py") for part in file.relative_to(ROOT).parts), f"{name(file)}: name the noun"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils")), f"{name(file)}:{node.lineno}: {node.name} does not say what it is"


def test_the_distribution_holds_every_package() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in HOUSE.rglob("__init__.py")}
    there |= {".".join(("workbench_widgets", *file.parent.relative_to(WIDGETS).parts)) for file in WIDGETS.rglob("__init__.py")}
    assert declared == there


@pytest.mark.parametrize(
    "statement", ["import workbench", "import workbench.job, workbench.strategies", "from workbench import Job, Network, Device"]
)
def test_importing_loads_neither_torch_nor_mpi_nor_jupyter(statement: str) -> None:
    heavy = ("torch", "mpi4py", "IPython", "ipykernel", "ipyparallel", "ipywidgets", "anywidget", "bokeh", "pandas", "pyarrow", "zmq")
    code = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_face_is_complete_and_an_unknown_name_is_an_attribute_error() -> None:
    import workbench

    for public in workbench.__all__:
        assert getattr(workbench, public).__name__ == public
    assert set(workbench.__all__) <= set(dir(workbench))
    with pytest.raises(AttributeError, match="has no attribute 'Clusters'"):
        _ = workbench.Clusters
