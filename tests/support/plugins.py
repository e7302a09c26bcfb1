"""Plugins that are known for as long as the tests of a module need them."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

from bench.conformance import runner
from bench.conformance.runner import examine
from bench.spec.registry import ARCHS, DATASETS, METHODS, add_plugin


@contextmanager
def known(*files: object) -> Iterator[None]:
    """Within the block the methods, networks and data sets of these files are known."""
    registries = (METHODS, ARCHS, DATASETS)
    before = [dict(registry._plugins) for registry in registries]
    for file in files:
        add_plugin(str(file))
    yield
    for registry, plugins in zip(registries, before, strict=True):
        registry._plugins = plugins


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
