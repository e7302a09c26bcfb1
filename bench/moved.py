"""Former import paths. Each still works, with a DeprecationWarning, until version 0.3."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "bench.archs": "bench.models.build",
    "bench.archs.layers": "bench.models.layers",
    "bench.check": "bench.conformance.runner",
    "bench.export": "bench.measure.onnx_export",
    "bench.registry": "bench.spec.registry",
    "bench.sites": "bench.pruning.site_discovery",
}
"""Former name -> present name."""
DATA = ("Images", "TrainingData", "dataset", "load_test", "load_training")
"""Names of :mod:`bench.data.loading` that were names of the package ``bench.data``."""


def warn(old: str, new: str) -> None:
    """Warn the caller's caller that ``old`` is now ``new``."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)


class _Present(Loader):
    """Gives the present module under its former name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has just replaced it


class Finder(MetaPathFinder):
    """Finds modules by their former names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The present module under its former name; None for any other name."""
        if fullname not in MODULES:
            return None
        warn(fullname, MODULES[fullname])
        return ModuleSpec(fullname, _Present(MODULES[fullname]), is_package=fullname == "bench.archs")
