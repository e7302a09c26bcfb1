"""Entries of the registries, read from the syntax tree of files: nothing is imported."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.errors import UsageError
from bench.spec.class_scan import ROOT
from bench.spec.option_scan import Option, options_of

HIDDEN = ("paper", "sha256", "min_size", "own_weights", "ranking", "needs", "supports", "exempt", "kinds", "normal")
"""Decorator arguments that are no options."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    authors: str
    year: int
    title: str
    venue: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.authors} {self.year}"


@dataclass(frozen=True)
class Entry:
    """What is known of a registered name without importing it."""

    name: str
    kind: str
    origin: str
    summary: str
    options: tuple[Option, ...]
    paper: Paper | None
    load: Callable[[], object]


def scan(file: Path, decorators: tuple[str, ...], load: Callable[[], object]) -> list[Entry]:
    """Entries that ``file`` defines, read from its syntax tree."""
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    try:
        found = _scan(file.read_text(encoding="utf-8"), shown, decorators)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno}: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not a Python file ({error})") from error
    return [dataclasses.replace(entry, load=load) for entry in found]


@cache
def _scan(text: str, shown: Path, decorators: tuple[str, ...]) -> list[Entry]:
    """Entries of a file with this text, without what loads them."""
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id not in decorators or not (call.args and isinstance(call.args[0], ast.Constant)):
                continue
            paper = next((k.value for k in call.keywords if k.arg == "paper"), None)
            doc = (ast.get_docstring(node) or "").split("\n")[0]
            options = options_of(node, call, tree, text, HIDDEN)
            name, origin = str(call.args[0].value), f"{shown}:{node.lineno}"
            found.append(Entry(name, call.func.id, origin, doc, options, _paper(paper, tree), _nothing))
    return found


def _nothing() -> None:
    """Loads nothing."""


def _paper(node: ast.expr | None, tree: ast.Module) -> Paper | None:
    if isinstance(node, ast.Name):
        named = papers() | _papers_of(tree)
        return named.get(node.id)
    return _literal_paper(node)


def _literal_paper(node: ast.expr | None) -> Paper | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Paper"):
        return None
    try:
        values = [ast.literal_eval(a) for a in node.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except ValueError as error:
        place = (None, node.lineno, node.col_offset, None)
        raise SyntaxError("the arguments of Paper must be plain strings and numbers", place) from error
    return Paper(*values, **named)


def _papers_of(tree: ast.Module) -> dict[str, Paper]:
    named = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            paper = _literal_paper(node.value)
            if paper:
                named[node.targets[0].id] = paper
    return named


@cache
def papers() -> dict[str, Paper]:
    """The papers of ``methods/papers.py`` by name."""
    return _papers_of(ast.parse((ROOT / "methods" / "papers.py").read_text(encoding="utf-8")))
