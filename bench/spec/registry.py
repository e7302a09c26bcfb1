"""Names of methods, architectures and data sets: found by reading source, imported only when used.

A decorator such as ``@importance("l1_norm", paper=LI2017)`` in a file of the registry's folder is all the
registration there is. Listing parses those files and runs none of them, so it needs no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.errors import UsageError, WordsError
from bench.spec.option_scan import Option, options_of
from bench.spec.source_hash import of_files

HIDDEN = ("paper", "sha256", "min_size", "own_weights", "ranking", "needs", "supports", "normal")
"""Decorator arguments that are no options."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    authors: str
    year: int
    title: str
    venue: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.authors} {self.year}"


@dataclass(frozen=True)
class Entry:
    """What is known of a registered name without importing it."""

    name: str
    kind: str
    origin: str
    summary: str
    options: tuple[Option, ...]
    paper: Paper | None
    load: Callable[[], object]


SYNONYMS = {"magnitude": ("l1_norm", "l2_norm"), "gradient": ("taylor",), "activation": ("act_mean", "apoz")}
"""What methods are called elsewhere."""
PREFIXES = "torchvision:NAME[:WEIGHTS] and file:PATH:FUNCTION"
"""Of architectures, as one types them."""
NEAR = 4
"""Most names that are offered for an unknown one."""


def unknown(noun: str, name: str, known: Iterable[str], hint: str = "") -> WordsError:
    """The error for a name that is not known.

    Args:
        noun: what it names.
        name: as it was given.
        known: names that there are.
        hint: what to say in place of near matches, or of all that is known.
    """
    names = sorted(known)  # which may be an iterator
    near = near_matches(name, names)
    hint = hint or (f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}")
    return WordsError(f"unknown {noun} '{name}': {hint}")


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """Known names that a mistyped one may mean, whatever the case of its letters, the nearest first."""
    names: dict[str, str] = {text.lower(): text for text in sorted(known)}
    asked = name.lower()
    if asked in names:
        return [names[asked]]
    also = [text for text in SYNONYMS.get(asked, ()) if text in names]
    close = difflib.get_close_matches(asked, names, n=NEAR, cutoff=0.5)
    begin = [text for text in names if len(asked) > 1 and text.startswith(asked)]
    inside = [text for text in names if len(asked) > 2 and asked in text]
    return [names[text] for text in dict.fromkeys([*also, *close, *begin, *inside])][:NEAR]


class Registry:
    """Lazy map from name to object.

    Args:
        noun: what the names are names of, in messages.
        decorators: names of the decorators that register here.
        folder: files (or one file) under the repository root that are searched.
        group: entry-point group of third-party packages, if any.
        prefixes: of names ``PREFIX:REST`` of what is defined elsewhere: prefix -> ``module:function``,
            which maps the rest to the object.
    """

    def __init__(
        self,
        noun: str,
        decorators: tuple[str, ...],
        folder: str,
        group: str | None = None,
        prefixes: dict[str, str] | None = None,
    ) -> None:
        self.noun, self.decorators, self.group, self.prefixes = noun, decorators, group, prefixes or {}
        self.path = ROOT / folder
        self._objects: dict[str, tuple[Any, str]] = {}
        self._plugins: dict[str, Entry] = {}

    def register(self, name: str, obj: Any, origin: str) -> None:
        """Called by the decorators. A second definition of a name elsewhere is an error."""
        if name in self._objects and self._objects[name][1] != origin:
            raise UsageError(f"{self.noun} '{name}' is defined twice: {self._objects[name][1]} and {origin}")
        self._objects[name] = (obj, origin)

    def entries(self) -> dict[str, Entry]:
        """All known names, sorted; nothing is imported."""
        found = dict(self._plugins)
        files = sorted(self.path.glob("*.py")) if self.path.is_dir() else [self.path]
        for file in files:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for entry in scan(file, self.decorators, partial(importlib.import_module, module)):
                if entry.name in found:
                    raise UsageError(
                        f"{self.noun} '{entry.name}' is defined twice: {found[entry.name].origin} and {entry.origin}"
                    )
                found[entry.name] = entry
        if self.group:
            for point in _entry_points(self.group):
                found.setdefault(
                    point.name,
                    Entry(point.name, "entry point", point.value, "from an installed package", (), None, point.load),
                )
        return dict(sorted(found.items()))

    def get(self, name: str) -> Any:
        """The object behind ``name``; raises UsageError with near matches for an unknown one."""
        prefix, _, rest = name.partition(":")
        if prefix in self.prefixes and rest:
            module, _, function = self.prefixes[prefix].partition(":")
            return getattr(importlib.import_module(module), function)(rest)
        if name not in self._objects:
            entries = self.entries()
            if name not in entries:
                raise self._unknown(name, entries)
            try:
                entries[name].load()
            except UsageError:
                raise
            except Exception as error:
                where = entries[name].origin
                raise UsageError(f"{self.noun} '{name}': {where}: {type(error).__name__}: {error}") from error
        if name not in self._objects:
            raise UsageError(f"{self.noun} '{name}': {entries[name].origin} does not register it")
        return self._objects[name][0]

    def require(self, name: str) -> None:
        """Raise UsageError with near matches unless ``name`` is known; imports nothing for a registered one."""
        if name.partition(":")[0] in self.prefixes:
            self.get(name)
        elif name not in (entries := self.entries()):
            raise self._unknown(name, entries)

    def _unknown(self, name: str, entries: Iterable[str]) -> WordsError:
        """The error for an unknown name, which may be a file or have an unknown prefix."""
        _, colon, rest = name.partition(":")
        if "file" in self.prefixes and not colon and (name.endswith(".py") or "/" in name):
            return unknown(self.noun, name, (), f"give file:{name}:FUNCTION, the function that returns the network")
        if colon and self.prefixes:
            near = near_matches(rest, entries)
            also = f"; without a prefix: {' or '.join(near)}" if near else ""
            return unknown(self.noun, name, (), f"the prefixes are {PREFIXES}{also}")
        return unknown(self.noun, name, entries)

    def origin(self, name: str) -> str:
        """``file:line`` where the object behind ``name`` is defined."""
        self.get(name)
        return self._objects[name][1]

    def add_file(self, file: Path) -> None:
        """Make the names a plugin file defines known (``--plugin FILE``)."""
        known = self.entries()
        for entry in scan(file, self.decorators, lambda: import_file(file)):
            if entry.name in known and known[entry.name].origin != entry.origin:
                raise UsageError(
                    f"plugin {file}: {self.noun} '{entry.name}' is already defined in "
                    f"{known[entry.name].origin}; choose another name"
                )
            self._plugins[entry.name] = entry


@cache
def _entry_points(group: str) -> metadata.EntryPoints:
    """Of the installed packages; looking for them takes longer than all else that listing does."""
    return metadata.entry_points(group=group)


@cache
def import_file(file: Path) -> object:
    """Import a plugin file under a name of its own; raises UsageError in one line when it cannot be."""
    name = f"bench_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"plugin {file}: {type(error).__name__}: {error}") from error
    return module


def scan(file: Path, decorators: tuple[str, ...], load: Callable[[], object]) -> list[Entry]:
    """Entries that ``file`` defines, read from its syntax tree."""
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    try:
        found = _scan(file.read_text(encoding="utf-8"), shown, decorators)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not a Python file ({error})") from error
    return [dataclasses.replace(entry, load=load) for entry in found]


@cache
def _scan(text: str, shown: Path, decorators: tuple[str, ...]) -> list[Entry]:
    """Entries of a file with this text, without what loads them."""
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id not in decorators or not (call.args and isinstance(call.args[0], ast.Constant)):
                continue
            paper = next((k.value for k in call.keywords if k.arg == "paper"), None)
            doc = (ast.get_docstring(node) or "").split("\n")[0]
            options = options_of(node, call, tree, text, HIDDEN)
            name, origin = str(call.args[0].value), f"{shown}:{node.lineno}"
            found.append(Entry(name, call.func.id, origin, doc, options, _paper(paper, tree), _nothing))
    return found


def _nothing() -> None:
    """Loads nothing."""


def _paper(node: ast.expr | None, tree: ast.Module) -> Paper | None:
    if isinstance(node, ast.Name):
        named = papers() | _papers_of(tree)
        return named.get(node.id)
    return _literal_paper(node)


def _literal_paper(node: ast.expr | None) -> Paper | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Paper"):
        return None
    values = [ast.literal_eval(a) for a in node.args]
    return Paper(*values, **{str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


def _papers_of(tree: ast.Module) -> dict[str, Paper]:
    named = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            paper = _literal_paper(node.value)
            if paper:
                named[node.targets[0].id] = paper
    return named


@cache
def papers() -> dict[str, Paper]:
    """The papers of ``methods/papers.py`` by name."""
    return _papers_of(ast.parse((ROOT / "methods" / "papers.py").read_text(encoding="utf-8")))


METHODS = Registry("method", ("importance", "regularizer", "method"), "methods", group="bench.methods")
ARCHS = Registry(
    "architecture",
    ("architecture",),
    "bench/models",
    prefixes={"torchvision": "bench.models.external:torchvision_model", "file": "bench.models.external:from_file"},
)
DATASETS = Registry("data set", ("dataset",), "bench/data/datasets.py")


PLUGINS: list[Path] = []
"""Files made known to this process."""


def add_plugin(path: str) -> None:
    """Make every method, architecture and data set that a file defines known to this process."""
    file = Path(path).resolve()
    if not file.is_file():
        raise UsageError(f"plugin {path}: no such file")
    for registry in (METHODS, ARCHS, DATASETS):
        registry.add_file(file)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # a plugin may import modules of its own folder
    if file not in PLUGINS:
        PLUGINS.append(file)


def model_name(text: str) -> str:
    """An architecture's name as a specification keeps it; raises UsageError.

    ``file:PATH:FUNCTION``, as a user gives it, becomes ``file:NAME:FUNCTION#HASH``, with the file's name and the
    start of the hash of its source (see :func:`bench.spec.source_hash.of_files`): a record names no folders,
    and a changed file, or local module that it imports, is another network. The file is made known as by
    ``--plugin``. Other names stay as they are.
    """
    if not text.startswith("file:") or re.search(r"#[0-9a-f]{8}$", text):
        return text
    path, _, function = text.removeprefix("file:").rpartition(":")
    if not path or not function.isidentifier():
        raise UsageError(f"architecture '{text}': give file:PATH:FUNCTION")
    if not Path(path).is_file():
        raise UsageError(f"architecture '{text}': no file {path}")
    add_plugin(path)
    return f"file:{Path(path).name}:{function}#{_content(Path(path))}"


def model_file(rest: str) -> tuple[Path, str]:
    """File and function of ``NAME:FUNCTION#HASH``, among the files made known; raises UsageError."""
    place, _, content = rest.partition("#")
    name, _, function = place.partition(":")
    for file in PLUGINS:
        if file.name == name and _content(file) == content:
            return file, function
    other = " (a file of that name has another content)" if any(file.name == name for file in PLUGINS) else ""
    raise UsageError(f"architecture 'file:{rest}' is not known here{other}; give its file with --plugin")


def _content(file: Path) -> str:
    return of_files(file).sha256[:8]


def method_names(text: str) -> list[str]:
    """Parts of ``a+b``; raises UsageError for an unknown one."""
    names = [n.strip() for n in text.split("+")]
    known = METHODS.entries()
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    return names
