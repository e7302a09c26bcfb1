"""Plugins that are known for as long as the tests of a module need them."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def outcomes(name: str, *checks: str) -> dict[str, tuple[str, str]]:
    """Outcome and detail of some checks of the battery for a method, which share its plain run."""
    return {result.name: (result.outcome, result.detail) for result in examine(name, list(checks)).results}
