"""Plugins that are known for as long as the tests of a module need them."""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

from support.paths import ROOT

from bench.conformance import runner
from bench.conformance.runner import examine
from bench.spec.registry import ARCHS, DATASETS, METHODS, PLUGINS, add_plugin


@contextmanager
def known(*files: object) -> Iterator[None]:
    """Within the block the methods, networks and data sets of these files are known, afterwards what was before it."""
    before = [(registry, registry._plugins, dict(registry._objects)) for registry in (METHODS, ARCHS, DATASETS)]
    paths, folders, added = [*PLUGINS], {*sys.path}, set[str]()
    for registry, plugins, _ in before:
        registry._plugins = dict(plugins)
    try:
        for file in files:
            add_plugin(str(file))
        added = {*sys.path} - folders
        yield
    finally:
        PLUGINS[:] = paths
        sys.path[:] = [folder for folder in sys.path if folder not in added]
        for registry, plugins, objects in before:
            new = {name: thing for name, thing in registry._objects.items() if name not in objects}
            registry._plugins = plugins
            registry._objects = objects | {name: thing for name, thing in new.items() if not _of_a_test(thing[1])}


def _of_a_test(origin: str) -> bool:
    """Whether a test defines what is registered from there, or wrote the file; others are imported once a process."""
    file = Path(origin.rpartition(":")[0])
    return file.name.startswith("test_") or not file.is_relative_to(ROOT)


@cache
def _bases() -> Path:
    folder = tempfile.mkdtemp(prefix="bench-bases-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def shared_bases() -> Iterator[None]:
    """Within the block the battery trains no dense baseline that it has trained for another method of this process."""
    subject = runner._subject

    def with_bases(name: str, folder: str) -> runner.Subject:
        Path(folder, "bases").symlink_to(_bases())
        return subject(name, folder)

    with patch.object(runner, "_subject", with_bases):
        yield


def outcomes(name: str, *checks: str) -> dict[str, tuple[str, str]]:
    """Outcome and detail of some checks of the battery for a method, which share its plain run."""
    with shared_bases():
        return {result.name: (result.outcome, result.detail) for result in examine(name, list(checks)).results}
