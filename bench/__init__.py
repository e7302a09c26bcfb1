"""Harness of the structured-sparsity benchmark: train, prune, slice, measure, record."""

import sys

from bench.moved import Finder

__version__ = "0.2.0"

RULES = "0.2"
"""Version of RULES.md; records of different rules never share a board."""

sys.meta_path.append(Finder())
