"""The source that a method or an architecture consists of, as one hash. Needs no torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SUITE = __name__.partition(".")[0]
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages: of these the version is recorded, not the source."""
WITHOUT_EFFECT = ("ctx", "kind", "type_comment", "type_params", "annotation", "returns")
"""Fields of a syntax tree that decide nothing when the program runs."""
_PARSING = threading.Lock()
"""Python 3.11 counts the depth of syntax trees for all threads together, and fails when two parse at once."""


@dataclass(frozen=True)
class Source:
    """What something is defined by.

    Attributes:
        sha256: hash of the source.
        packages: installed packages that the source imports, by the names under which it does.
    """

    sha256: str
    packages: frozenset[str]


def of_files(*files: Path) -> Source:
    """The source of ``files``, of every local module that they import, and of what those import.

    Local: in the same package, in the same folder, or elsewhere on the path but neither in the standard library nor
    installed nor part of this suite (of a file of the suite none is). Imports are read from the syntax tree: a module
    whose name is computed, and a file that is not Python, are not covered. The hash of one file alone is that of its
    bytes.

    Raises OSError for a file that cannot be read.
    """
    found: dict[Path, str] = {}
    packages: set[str] = set()
    todo = [file.resolve() for file in files]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        content = file.read_bytes()
        found[file] = hashlib.sha256(content).hexdigest()
        local, installed = _imported(file, content)
        todo += [other.resolve() for other in local]
        packages |= installed
    hashes = sorted([file.name, sha256] for file, sha256 in found.items())
    return Source(hashes[0][1] if len(hashes) == 1 else _hash(hashes), frozenset(packages))


def _imported(file: Path, content: bytes) -> tuple[list[Path], set[str]]:
    """Files that run when ``file`` is imported, and the installed packages that it imports."""
    top, root = _package(file)
    local = [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(root) and folder != root]
    installed = set()
    for level, module, names in _imports_of(content):
        if level or module[0] == top:
            start = None if top == SUITE else file.parents[level - 1] if level else root
        else:
            start = _folder(module[0], root)
        if start is not None:
            local += [path for name in names for path in _modules(start, [*module, name])]
        elif not level and _is_foreign(module[0]):
            installed.add(module[0])
    return [path for path in local if path != file], installed


@functools.lru_cache(maxsize=512)
def _imports_of(content: bytes) -> list[tuple[int, list[str], list[str]]]:
    """The imports of a file. Kept, because parsing takes most of the time and each run asks for the same files."""
    return list(_imports(_tree(content)))


def _tree(content: bytes) -> ast.Module:
    """The syntax tree of a file; an empty one where there is none, as of a compiled module."""
    try:
        with _PARSING:
            return ast.parse(content)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _imports(tree: ast.AST) -> Iterator[tuple[int, list[str], list[str]]]:
    """Every import as its level, the parts of the module's name, and what is taken from it (modules perhaps)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split("."), [""]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, (node.module or "").split("."), [alias.name for alias in node.names]


def _is_foreign(name: str) -> bool:
    return name != SUITE and name not in sys.stdlib_module_names


def _package(file: Path) -> tuple[str, Path]:
    """Name of the outermost package (or module) that a file belongs to, and the folder that this lies in."""
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return file.relative_to(folder).parts[0].removesuffix(".py"), folder


def _folder(name: str, default: Path) -> Path | None:
    """Folder of the top-level module ``name``: where Python finds it, else ``default``; None where it is not local."""
    if not _is_foreign(name):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that was made by hand
        spec = None
    if spec is None:
        return default
    place = Path(next(iter(spec.submodule_search_locations or [spec.origin or ""])))
    return place.resolve().parent if place.exists() and not INSTALLED.intersection(place.parts) else None


def _modules(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Files that run when the module of this name is imported from ``folder``, as far as they are there."""
    found = []
    for part in filter(None, parts):
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            found.append(package)
        elif module.is_file():
            return [*found, module]
        elif not package.parent.is_dir():
            return found
        folder = package.parent
    return found


# --- definitions ------------------------------------------------------------------------------------------------


def of_definitions(*start: Any, folder: Path, without: Iterable[str] = ()) -> Source:
    """The source of classes and functions, and of all that they use which is defined in ``folder``.

    In which file of ``folder`` something is does not matter, nor do comments, documentation, annotations, and
    methods and decorators called as ``without`` says.
    """
    found: dict[str, list[Any]] = {}
    packages: set[str] = set()
    todo: list[tuple[str, Any]] = [(thing.__name__, thing) for thing in start]
    while todo:
        name, thing = todo.pop()
        thing = inspect.unwrap(thing) if callable(thing) else thing
        if _is_literal(thing):
            found[f"{name}={thing!r}"] = [name, repr(thing)]
            continue
        if not (inspect.isclass(thing) or inspect.isfunction(thing) or isinstance(thing, ModuleType)):
            continue
        module = thing if isinstance(thing, ModuleType) else sys.modules.get(thing.__module__)
        if module is None:
            continue
        if not Path(getattr(module, "__file__", None) or "").is_relative_to(folder):
            packages |= set(filter(_is_foreign, [module.__name__.partition(".")[0]]))
            continue
        key = f"{module.__name__}.{getattr(thing, '__qualname__', '')}"
        if key in found:
            continue
        plain, used, imported = _definition(thing, frozenset(without))  # type: ignore[arg-type]  # modules have a hash
        found[key] = [name, plain]
        packages |= imported
        todo += [(used_name, vars(module)[used_name]) for used_name in used & vars(module).keys()]
    return Source(_hash(sorted(found.values(), key=json.dumps)), frozenset(packages))


@functools.cache
def _definition(thing: Any, without: frozenset[str]) -> tuple[Any, set[str], set[str]]:
    """A definition as :func:`_plain` has it, the names that it reads, and the packages that it imports."""
    with _PARSING:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    used: set[str] = set()
    plain = _plain(tree, used, set(without))
    return plain, used, {parts[0] for level, parts, _ in _imports(tree) if not level and _is_foreign(parts[0])}


def _is_literal(thing: Any) -> bool:
    """Whether it is a constant: numbers, text, and tuples, lists and tables of them."""
    if isinstance(thing, tuple | list):
        return all(map(_is_literal, thing))
    if isinstance(thing, dict):
        return all(map(_is_literal, [*thing.keys(), *thing.values()]))
    return isinstance(thing, bool | int | float | str | None)


def _plain(node: Any, used: set[str], without: set[str]) -> Any:
    """A syntax tree as lists, with nothing but what has an effect; names that it reads are added to ``used``."""
    if isinstance(node, list):
        return [_plain(inner, used, without) for inner in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Name):
        used.add(node.id)
    made = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name in WITHOUT_EFFECT:
            continue
        if name == "body" and isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            value = value[1:]
        if name in ("decorator_list", "body") and isinstance(value, list):
            value = [inner for inner in value if _named(inner) not in without]
        if value is not None and value != []:
            made += [name, _plain(value, used, without)]
    return made


def _named(node: Any) -> str | None:
    """Name of a definition, or of the function that is called."""
    function = node.func if isinstance(node, ast.Call) else node
    return getattr(function, "name", None) or getattr(function, "id", None)


def joined(*parts: Source) -> Source:
    """Several sources as one."""
    packages = frozenset().union(*(part.packages for part in parts))
    return Source(_hash([part.sha256 for part in parts]), packages)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
