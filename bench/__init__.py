"""Harness of the structured-sparsity benchmark: train, prune, slice, measure, record."""

import importlib
import sys
from typing import Any

from bench.errors import RunFailed, SetupError, UsageError
from bench.moved import Finder

__all__ = [
    "RULES",
    "PrunedNetwork",
    "Pruner",
    "RunFailed",
    "SetupError",
    "UsageError",
    "load",
    "load_board",
    "prune",
    "run",
]

__version__ = "0.2.0"

RULES = "0.2"
"""Version of RULES.md; records of different rules never share a board."""

sys.meta_path.append(Finder())


LAZY = {
    "PrunedNetwork": "bench.deploy.pruned_network",
    "Pruner": "bench.deploy.pruner",
    "load": "bench.deploy.loading",
    "load_board": "leaderboard",
    "prune": "bench.deploy.prune",
    "run": "bench.runs.python_api",
}
"""Name -> its module, imported when the name is used: torch and pandas are slow to import."""


def __getattr__(name: str) -> Any:
    """One of ``LAZY``."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
