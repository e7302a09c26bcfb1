"""Methods are short: what a method needs beyond its equations belongs into the context."""

import ast
import io
import tokenize

import pytest
from support.paths import ROOT

METHODS = ROOT / "methods"


def statements(node: ast.AST) -> int:
    """Statements and decorators below a node, without docstrings, Config and imports; however they are wrapped."""
    total = 0
    for child in ast.iter_child_nodes(node):
        text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if text or isinstance(child, ast.Import | ast.ImportFrom) or getattr(child, "name", "") == "Config":
            continue
        total += isinstance(child, ast.stmt) + len(getattr(child, "decorator_list", [])) + statements(child)
    return total


def code_lines(file: str) -> dict[str, int]:
    """Lines of each method of a file, without docstrings, comments and imports; what methods share counts for each."""
    text = (METHODS / f"{file}.py").read_text()
    tree, skipped = ast.parse(text), (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    own = {}
    for node in tree.body:
        names = [call.args[0].value for call in getattr(node, "decorator_list", []) if isinstance(call, ast.Call)]
        if names:
            first = min(call.lineno for call in node.decorator_list)
            own[names[0]] = lines & set(range(first, node.end_lineno + 1))
    shared = lines - set().union(*own.values())
    return {name: len(found | shared) for name, found in own.items()}


FILES = (
    *("sfp", "activations", "prune_large", "dropneuron", "structured_sparsity", "vip_pls", "dsd", "blocks", "refit"),
    *("nisp", "refined", "net_trim_row", "l0_row", "gal", "freezing", "distillation", "controls", "norms"),
)


@pytest.mark.parametrize("file", FILES)
def test_methods_have_at_most_forty_lines(file):
    found = code_lines(file)
    assert found
    assert max(found.values()) <= 40, found


LENGTHS = {"ddrop": 35, "dropnet": 35, "edropout": 45, "spectral": 25, "refit": 40}
LENGTHS |= dict.fromkeys(("nisp", "refined", "net_trim_row", "l0_row"), 40)
"""File -> most statements."""
OF_A_CLASS = {
    "distillation.Distill": 9,
    "gal.SoftMaskFista": 40,
    "gal.Gal": 12,
    "freezing.LearnAndDrop": 25,
    "freezing.FreezeSchedule": 8,
}
"""Class -> most statements; functions of its file are not counted."""


@pytest.mark.parametrize(("name", "most"), OF_A_CLASS.items())
def test_systems_are_forty_lines(name, most):
    file, _, cls = name.partition(".")
    tree = ast.parse((METHODS / f"{file}.py").read_text())
    (node,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls]
    assert 4 < len(node.decorator_list) + statements(node) <= most <= 40


@pytest.mark.parametrize(("file", "most"), LENGTHS.items())
def test_methods_are_short(file, most):
    assert 15 < statements(ast.parse((METHODS / f"{file}.py").read_text())) <= most


def test_importances_are_five_lines():
    functions = [n for n in ast.parse((METHODS / "norms.py").read_text()).body if isinstance(n, ast.FunctionDef)]
    assert functions
    for function in functions:
        assert 1 + len(function.decorator_list) + statements(function) <= 5, function.name
