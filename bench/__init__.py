"""Harness of the structured-sparsity benchmark: train, prune, slice, measure, record."""

import sys
from typing import Any

from bench.moved import Finder

__version__ = "0.2.0"

RULES = "0.2"
"""Version of RULES.md; records of different rules never share a board."""

sys.meta_path.append(Finder())


def __getattr__(name: str) -> Any:
    """``bench.run`` and ``bench.load``, imported when they are used: they need torch."""
    if name in ("load", "run"):
        from bench.runs import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
