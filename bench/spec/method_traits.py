"""Traits of a method for specifications and pages, read from its source without importing it (or torch).

It holds for what is written plainly: attributes that are literals or one expression of the options, and a ``Config``
that needs nothing but the standard library. For anything else there is None, and the caller imports the method.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from bench.errors import UsageError
from bench.spec.decode import method_config, non_default
from bench.spec.entries import HIDDEN, ROOT
from bench.spec.registry import METHODS

ATTRIBUTES = ("starts_from", "ranking", "prunes", "native")
KNOWN = {"dataclass": dataclass, "dataclasses": dataclasses, "field": dataclasses.field, "Literal": Literal}
KNOWN |= {"math": math, "UsageError": UsageError}
"""Names that a ``Config`` may use."""
PLAIN = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Load),
    *(ast.IfExp, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop),
)
"""What a plain expression is made of."""
ROOT_CLASS = "Method"
UNREADABLE = (OSError, SyntaxError, StopIteration, LookupError, TypeError, NameError, AttributeError, ImportError)
"""What reading a source raises that is not written plainly."""


@dataclass(frozen=True)
class Traits:
    """What a method is with some options.

    Attributes:
        starts_from, ranking, prunes, native: see :class:`bench.api.Method`.
        depends: which of these depend on the options.
        config: the options that differ from their defaults.
    """

    starts_from: str
    ranking: str
    prunes: bool
    native: bool
    depends: frozenset[str]
    config: Mapping[str, Any]


def of(name: str, options: Mapping[str, Any] | None = None) -> Traits | None:
    """The traits of a registered method; None where its source is not in a file or has to be executed.

    Args:
        name: in the registry.
        options: values, or texts, which are parsed.

    Raises:
        UsageError: an option is unknown or has a wrong value.
    """
    place, _, line = METHODS.entries()[name].origin.rpartition(":")
    if not place.endswith(".py"):
        return None
    try:
        tree = _tree(str(ROOT / place))
        node = next(n for n in ast.walk(tree) if isinstance(n, DEFINITIONS) and n.lineno == int(line))
        config, attributes = _of_class(node, tree) if isinstance(node, ast.ClassDef) else _of_function(name, node)
        made = method_config(config, options or {}, name)
        values = {key: _value(expression, made) for key, (expression, _) in attributes.items()}
    except UNREADABLE:
        return None
    if not all(isinstance(values[key], kind) for key, kind in zip(ATTRIBUTES, (str, str, bool, bool), strict=True)):
        return None
    depends = frozenset(key for key, (_, computed) in attributes.items() if computed)
    return Traits(**values, depends=depends, config=non_default(made))


def of_class(cls: Any) -> Traits:
    """The traits of a method's class, which was imported, with its default options."""
    method = cls()
    depends = frozenset(key for key in ATTRIBUTES if isinstance(inspect.getattr_static(cls, key), property))
    starts, ranking, prunes, native = (getattr(method, key) for key in ATTRIBUTES)
    return Traits(starts, ranking, prunes, native, depends, {})


DEFINITIONS = (ast.ClassDef, ast.FunctionDef)
Attributes = dict[str, tuple[ast.expr, bool]]
"""Name -> the expression of an attribute, and whether it is computed from the options."""


def _of_function(name: str, node: ast.FunctionDef) -> tuple[type, Attributes]:
    """Options and attributes of a function under one of the decorators that make a method of it."""
    call = next(
        call
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant) and call.args[0].value == name
    )
    given = {str(keyword.arg): keyword.value for keyword in call.keywords}
    options = {key: ast.literal_eval(value) for key, value in given.items() if key not in HIDDEN}
    fields: list[tuple[str, Any, Any]] = []
    if "needs" in given and ast.literal_eval(given["needs"]):
        fields.append(("batches", int | None, dataclasses.field(default=None)))
    fields += [(key, type(value), dataclasses.field(default=value)) for key, value in options.items()]
    starts = "base" if getattr(call.func, "id", "") == "importance" else "init"
    ranking = ast.literal_eval(given["ranking"]) if "ranking" in given else "layer"
    values = dict(zip(ATTRIBUTES, (starts, ranking, True, False), strict=True))
    attributes: Attributes = {key: (ast.Constant(value), False) for key, value in values.items()}
    return dataclasses.make_dataclass("Config", fields, frozen=True), attributes


def _of_class(node: ast.ClassDef, tree: ast.Module) -> tuple[type, Attributes]:
    """Options and attributes of a class; LookupError where one is not found."""
    chain = [*_chain(node, tree)]
    return _config(chain), {key: _attribute(key, chain) for key in ATTRIBUTES}


def _chain(node: ast.ClassDef, tree: ast.Module) -> Iterator[ast.ClassDef]:
    """The class and those that it derives from; LookupError where one is not found."""
    while True:
        yield node
        if node.name == ROOT_CLASS or not node.bases:
            return
        if len(node.bases) > 1:
            raise LookupError(f"{node.name} has several bases")
        node, tree = _class(ast.unparse(node.bases[0]), tree)


def _class(name: str, tree: ast.Module) -> tuple[ast.ClassDef, ast.Module]:
    """The class that a name means in a file: defined there, or imported from a module of the suite."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, tree
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return _class(name, _tree(str(ROOT / Path(*node.module.split(".")).with_suffix(".py"))))
    raise LookupError(name)


def _config(chain: list[ast.ClassDef]) -> type:
    """The dataclass of a method's options, which its class has or inherits; only that part of the file is run."""
    own: list[ast.ClassDef] = []
    for node in chain:
        config = next((n for n in node.body if isinstance(n, ast.ClassDef) and n.name == "Config"), None)
        if config is not None and (not own or own[-1].bases):
            own.append(config)
    made: Any = object
    for config in reversed(own):
        plain = copy.deepcopy(config)
        plain.bases = [ast.Name("Base", ast.Load())] if config.bases else []
        module = ast.fix_missing_locations(ast.Module([plain], []))
        names = {**KNOWN, "Base": made, "__name__": __name__}
        exec(compile(module, "<options>", "exec"), names)
        made = names["Config"]
    return made


def _attribute(name: str, chain: list[ast.ClassDef]) -> tuple[ast.expr, bool]:
    """The expression of a class's attribute, and whether it is computed from the options; LookupError without one."""
    for node in chain:
        for line in node.body:
            targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
            value = getattr(line, "value", None)
            if value is not None and any(isinstance(t, ast.Name) and t.id == name for t in targets):
                inner = value.args[0] if isinstance(value, ast.Call) and value.args else None
                return (inner.body, True) if isinstance(inner, ast.Lambda) else (value, False)
            if isinstance(line, ast.FunctionDef) and line.name == name:
                *before, last = line.body
                if isinstance(last, ast.Return) and last.value is not None and all(map(_is_text, before)):
                    return last.value, True
                raise LookupError(name)
    raise LookupError(name)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _value(expression: ast.expr, config: Any) -> Any:
    """An expression of literals and of the options, which it calls ``self.config``; TypeError for any other."""
    for node in ast.walk(expression):
        if not isinstance(node, PLAIN):
            raise TypeError(ast.unparse(node))
    code = compile(ast.fix_missing_locations(ast.Expression(expression)), "<attribute>", "eval")
    return eval(code, {"__builtins__": {}}, {"self": SimpleNamespace(config=config)})


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))
