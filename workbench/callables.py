"""The user's own functions and classes, named "package.module:callable" so that every rank can import them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.frozen import thawed
from workbench.options import unknown_name


def path_of(field: str, given: Callable[..., Any]) -> str:
    """The "module:qualname" of a callable, or a ValueError when no rank could import it by that name."""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if not module or not name:
        raise ValueError(f"{field} must be a name or a function or class with a name, got {given!r}")
    if "<" in name:
        raise ValueError(f"{field}={name}: the ranks import it by name, so it must stand at the top level of a module, not inside a function")
    if module == "__main__":
        raise ValueError(_in_a_cell(field, name))
    return f"{module}:{name}"


def check_path(field: str, given: str) -> None:
    """ValueError unless `given` reads "package.module:callable". Imports nothing."""
    module, _, name = given.partition(":")
    if module == "__main__":
        raise ValueError(_in_a_cell(field, name))
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise ValueError(f'{field}={given!r}: {field} must read "package.module:callable", got {given!r}')


def load_path(field: str, given: str) -> Callable[..., Any]:
    """Import the callable that "package.module:callable" names; ValueError when there is none."""
    check_path(field, given)
    module_name, _, name = given.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise ValueError(f"{field}={given!r}: no module named {error.name!r} in {Path.cwd()} or on the Python path") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
            raise ValueError(f"{field}={given!r}: {unknown_name('callable', part, known, of=module_name)}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{field}={given!r}: {field} must name a function or a class, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def call(field: str, path: str, function: Callable[..., Any], options: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """Call `function` with `options`, and with what of `offered` it has a parameter for; ValueError for an option it does not take."""
    parameters = inspect.signature(function).parameters
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in options:
        if name not in named and not takes_any:
            raise ValueError(unknown_name("option", name, named, of=f"{field} {path!r}"))
    keywords = {n: value for n, value in offered.items() if n in named and value is not None} | thawed(dict(options))
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in keywords]
    if missing:
        raise ValueError(f"{field} {path!r} needs {', '.join(map(repr, missing))}; give it in {field}_options")
    return function(**keywords)


def modules_under(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Module -> SHA-256 of its file, for the modules of `paths` and what they import, as far as they lie under `folder`.

    Reads the files and imports nothing; a module that comes from elsewhere (site-packages) is left out.
    """
    found: dict[str, str] = {}
    waiting = [path.partition(":")[0] for path in paths]
    while waiting:
        name = waiting.pop()
        file = _file_of(folder, name)
        if name in found or file is None or name.partition(".")[0] == "workbench":
            continue
        source = file.read_bytes()
        found[name] = hashlib.sha256(source).hexdigest()
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += _imports(source, file, package)
    return dict(sorted(found.items()))


def _file_of(folder: Path, name: str) -> Path | None:
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    base = folder.joinpath(*name.split("."))
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _imports(source: bytes, file: Path, package: str) -> list[str]:
    """The modules that a module may import; `from a import b` stands for a and for a.b."""
    try:
        tree = ast.parse(source, filename=str(file))
    except SyntaxError:
        return []  # the import on the ranks will say so, with the line
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name]


def _in_a_cell(field: str, name: str) -> str:
    module = name.split(".")[0].lower() or "mine"
    return (
        f"{field}={name}: {name} is defined in a notebook cell (or a script), where no rank can import it. Put it into a file: "
        f"write as the first line of the cell\n\n    %%writefile {module}.py\n\n"
        f'run the cell, and give {field}="{module}:{name}". When the file changes, the ranks import it again.'
    )
