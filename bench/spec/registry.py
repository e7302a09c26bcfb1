"""Names of methods, architectures and data sets: found by reading source, imported only when used.

A decorator such as ``@importance("l1_norm", paper=LI2017)`` in a file of the registry's folder is all the
registration there is. Listing parses those files and runs none of them, so it needs no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.errors import UsageError, WordsError
from bench.spec.class_scan import ROOT
from bench.spec.entries import Entry, scan
from bench.spec.near_names import near_matches, unknown
from bench.spec.off_limits import off_limits
from bench.spec.source_hash import of_files

PREFIXES = "torchvision:NAME[:WEIGHTS], timm:NAME[.WEIGHTS] and file:PATH:FUNCTION"
"""Of architectures, as one types them."""


WEIGHTS = (".pt", ".pth", ".pt2", ".ckpt", ".bin", ".onnx", ".safetensors")
"""Ends of files that users give for an architecture."""


class Registry:
    """Lazy map from name to object.

    Args:
        noun: what the names are names of, in messages.
        decorators: names of the decorators that register here.
        folder: files (or one file) under the repository root that are searched.
        group: entry-point group of third-party packages, if any.
        prefixes: of names ``PREFIX:REST`` of what is defined elsewhere: prefix -> ``module:function``,
            which maps the rest to the object.
        listings: prefix -> ``module:function``, which lists what may follow it.
    """

    def __init__(
        self,
        noun: str,
        decorators: tuple[str, ...],
        folder: str,
        group: str | None = None,
        prefixes: dict[str, str] | None = None,
        listings: dict[str, str] | None = None,
    ) -> None:
        self.noun, self.decorators, self.group = noun, decorators, group
        self.prefixes, self.listings = prefixes or {}, listings or {}
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
            state = file.stat()
            for entry in _entries_of(file, self.decorators, state.st_mtime_ns, state.st_size):
                if entry.name in found:
                    raise UsageError(
                        f"{self.noun} '{entry.name}' is defined twice: {found[entry.name].origin} and {entry.origin}"
                    )
                found[entry.name] = entry
        if self.group:
            for point in _entry_points(self.group):
                found.setdefault(
                    point.name,
                    Entry(
                        point.name, "entry point", point.value, "from an installed package", (), None, _loader(point)
                    ),
                )
        return dict(sorted(found.items()))

    def get(self, name: str) -> Any:
        """The object behind ``name``; raises UsageError with near matches for an unknown one."""
        prefix, _, rest = name.partition(":")
        if prefix in self.prefixes and rest:
            return self._call(self.prefixes[prefix], rest)
        if name not in self._objects:
            entries = self.entries()
            if name not in entries:
                raise self._unknown(name, entries)
            try:
                entries[name].load()
            except Exception as error:
                self._objects.pop(name, None)  # its file may have registered it before it failed
                if isinstance(error, UsageError):
                    raise
                where = entries[name].origin
                raise UsageError(f"{self.noun} '{name}': {where}: {type(error).__name__}: {error}") from error
        if name not in self._objects:
            raise UsageError(f"{self.noun} '{name}': {entries[name].origin} does not register it")
        return self._objects[name][0]

    def outside(self, prefix: str) -> list[str]:
        """Names that are known behind ``prefix``; empty where there are none."""
        return list(self._call(self.listings[prefix])) if prefix in self.listings else []

    @staticmethod
    def _call(place: str, *given: str) -> Any:
        module, _, function = place.partition(":")
        return getattr(importlib.import_module(module), function)(*given)

    def require(self, name: str) -> None:
        """Raise UsageError with near matches unless ``name`` is known; imports nothing for a registered one."""
        if name.partition(":")[0] in self.prefixes:
            self.get(name)
        elif name not in (entries := self.entries()):
            raise self._unknown(name, entries)

    def _unknown(self, name: str, entries: Iterable[str]) -> WordsError:
        """The error for an unknown name, which may be a file or have an unknown prefix."""
        _, colon, rest = name.partition(":")
        if "file" in self.prefixes and not colon and name.endswith(WEIGHTS):
            hint = "give file:PATH:FUNCTION, a function that builds the network and loads its weights"
            return unknown(self.noun, name, (), hint)
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
def _entries_of(file: Path, decorators: tuple[str, ...], changed: int, size: int) -> list[Entry]:
    """Entries of a file of the suite, read once as long as it has this time of its last change and this size."""
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return scan(file, decorators, partial(importlib.import_module, module))


@cache
def _entry_points(group: str) -> metadata.EntryPoints:
    """Of the installed packages; looking for them takes longer than all else that listing does."""
    return metadata.entry_points(group=group)


def _loader(point: metadata.EntryPoint) -> Callable[[], object]:
    def load() -> object:
        with off_limits("it"):
            return point.load()

    return load


@cache
def import_file(file: Path) -> object:
    """Import a plugin file under a name of its own; raises UsageError in one line when it cannot be."""
    name = f"bench_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugin {file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loads = scan(file, DATASETS.decorators, list)  # a file with a data set may import what loads it
    try:
        with nullcontext() if loads else off_limits("it"):
            spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"plugin {file}: {type(error).__name__}: {error}") from error
    return module


METHODS = Registry("method", ("importance", "regularizer", "method"), "methods", group="bench.methods")
ARCHS = Registry(
    "architecture",
    ("architecture",),
    "bench/models",
    prefixes={
        "torchvision": "bench.models.external:torchvision_model",
        "timm": "bench.models.timm_models:timm_model",
        "file": "bench.models.external:from_file",
    },
    listings={
        "torchvision": "bench.models.external:torchvision_names",
        "timm": "bench.models.timm_models:timm_names",
    },
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
