"""Methods are short: what a method needs beyond its equations belongs into the context."""

import ast

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


@pytest.mark.parametrize(
    ("file", "most"),
    [
        ("ddrop", 35),
        ("dropnet", 35),
        ("edropout", 45),
        ("spectral", 25),
        ("refit", 40),
        *((m, 40) for m in ("nisp", "refined", "net_trim_row", "l0_row")),
    ],
)
def test_methods_are_short(file, most):
    assert 15 < statements(ast.parse((METHODS / f"{file}.py").read_text())) <= most


def test_importances_are_five_lines():
    functions = [n for n in ast.parse((METHODS / "norms.py").read_text()).body if isinstance(n, ast.FunctionDef)]
    assert functions
    for function in functions:
        assert 1 + len(function.decorator_list) + statements(function) <= 5, function.name
