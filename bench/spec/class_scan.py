"""Classes of the suite in their sources, found by what a name means in a file: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def parsed(file: Path) -> tuple[ast.Module, str]:
    """A source, and its text."""
    text = file.read_text(encoding="utf-8")
    return ast.parse(text), text


def class_of(name: str, tree: ast.Module, text: str) -> tuple[ast.ClassDef, ast.Module, str]:
    """The class that a name means in a file, and its file: this one, or a module of the suite that it is imported from.

    Raises:
        LookupError, OSError: there is none.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree, text
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return class_of(name, *parsed(ROOT.joinpath(*node.module.split(".")).with_suffix(".py")))
    raise LookupError(name)
