"""Methods are short: what a method needs beyond its equations belongs into the context."""

import ast
import io
import tokenize

import pytest
from support.paths import ROOT

METHODS = ROOT / "methods"
MOST = 40
OTHERS = {"norms": 8, "edropout": 45, "penalties": 65, "torch_pruning_adapter": 55}
"""File -> lines of its longest method, where another limit holds.

An importance is a line or two. ``edropout`` has operators of evolution besides its hooks; ``penalties`` four terms
under one rule, which count for each; the adapter is a bridge to another library.
"""
SPACE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def lines_of(node):
    """Lines of a node, decorators included."""
    first = min([node.lineno, *(call.lineno for call in getattr(node, "decorator_list", []))])
    return set(range(first, node.end_lineno + 1))


def code_lines(text):
    """Lines of each method of a file, without docstrings, comments, imports and Config; shared ones count for each.

    Those of a method that it derives from do not: ``gal`` adds to ``softmask_fista``.
    """
    tree, lines, own = ast.parse(text), set(), {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SPACE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "name", "") == "Config":
            lines -= lines_of(node)
    for node in tree.body:
        names = [call.args[0].value for call in getattr(node, "decorator_list", []) if isinstance(call, ast.Call)]
        if names:
            own[names[0]] = lines & lines_of(node)
    shared = lines.difference(*own.values())
    return {name: len(found | shared) for name, found in own.items()}


FOUND = {file.stem: code_lines(file.read_text()) for file in METHODS.glob("*.py")}


@pytest.mark.parametrize("file", sorted(file for file, found in FOUND.items() if found))
def test_methods_have_at_most_forty_lines(file):
    assert max(FOUND[file].values()) <= OTHERS.get(file, MOST), FOUND[file]


def test_other_limits_are_needed():
    assert {file: max(FOUND[file].values()) for file in OTHERS} == OTHERS
