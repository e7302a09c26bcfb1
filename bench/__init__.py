"""Harness of the structured-sparsity benchmark: train, prune, slice, measure, record."""

__version__ = "0.1.0"

RULES = "0.1"
"""Version of RULES.md; records of different rules never share a board."""
