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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from bench.errors import UsageError
from bench.spec.class_scan import ROOT, class_of, parsed
from bench.spec.decode import method_config, non_default
from bench.spec.entries import HIDDEN
from bench.spec.option_ranges import require_ranges
from bench.spec.option_scan import looks_at_data
from bench.spec.registry import METHODS

ATTRIBUTES: dict[str, Any] = {"starts_from": str, "ranking": str, "prunes": bool, "native": bool, "active": str}
ATTRIBUTES |= {"kinds": tuple, "compensation": str | None, "reestimates": int | None}
"""What is read of a method, and its type."""
KINDS = ("conv", "linear")
"""Kinds of sites that a method works on where it does not say otherwise."""
LAYER = "layer"
"""How units are ranked where no method says otherwise."""
RANKS, PLANS, LOSS = "rank the units", "plan the training", "replace the objective"
DECISIONS = {RANKS: ("scores", "select"), PLANS: ("plan",), LOSS: ("objective",)}
"""What at most one part of a composition may do, and the hooks that do it."""
KNOWN = {"dataclass": dataclass, "dataclasses": dataclasses, "field": dataclasses.field, "Literal": Literal}
KNOWN |= {"math": math, "UsageError": UsageError, "require_ranges": require_ranges}
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
        starts_from, ranking, prunes, native, active, kinds, compensation, reestimates: see :class:`bench.api.Method`;
            of a composition whose parts rank blocks and channels in two ways, ``ranking`` names both.
        depends: which of these depend on the options.
        config: the options that differ from their defaults.
        decides: of ``DECISIONS`` what the method does itself.
    """

    starts_from: str
    ranking: str
    prunes: bool
    native: bool
    active: str
    kinds: tuple[str, ...]
    compensation: str | None
    reestimates: int | None
    depends: frozenset[str]
    config: Mapping[str, Any]
    decides: frozenset[str]


def of(text: str, options: Mapping[str, Any] | None = None) -> Traits | None:
    """The traits of a method, or of a composition ``a+b``; None where a source is not in a file or has to be executed.

    Args:
        text: names in the registry.
        options: values, or texts, which are parsed; of a composition ``a.key``.

    Raises:
        UsageError: an option is unknown or has a wrong value, or the parts do not go together.
    """
    names = text.split("+")
    found = [(name, _of_name(name, options_of(name, names, options or {}))) for name in names]
    parts = [(name, traits) for name, traits in found if traits is not None]
    return together(parts) if len(parts) == len(names) else None


def options_of(name: str, names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one method of several, without its name before them; UsageError where one is nobody's."""
    if len(names) == 1:
        return dict(options)
    stray = [key for key in options if key.partition(".")[0] not in names]
    if stray:
        raise UsageError(f"option '{stray[0]}': say whose it is, such as {names[0]}.{stray[0]}")
    return {key.removeprefix(f"{name}."): value for key, value in options.items() if key.startswith(f"{name}.")}


def together(parts: Sequence[tuple[str, Traits]]) -> Traits:
    """The traits of methods that are composed; raises UsageError where two of them want the same decision.

    The part that ranks the units says how they are ranked and whether it is native; without one the first part that
    ranks otherwise than by layer, and any part that is native. Two may rank units, each those of other kinds. The part
    with a plan says where the whole starts; without one it starts from the base if all parts do.
    """
    if len(parts) == 1:
        return parts[0][1]
    names, traits = [name for name, _ in parts], [each for _, each in parts]
    able, planner = rankers(parts), deciding(PLANS, parts)
    ranker = able[0] if able else None
    for other in ("before", "after"):  # each phase has one objective
        deciding(LOSS, [(name, each) for name, each in parts if each.active != other])
    rankings = [each.ranking for each in traits if each.ranking != LAYER]
    ranked = dict.fromkeys(traits[k].ranking for k in able)
    start = "base" if all(each.starts_from == "base" for each in traits) else "init"
    keepers = [name for name, each in parts if not each.prunes]
    if ranker is not None and keepers:
        raise UsageError(f"{keepers[0]} keeps every unit: it cannot be composed with {names[ranker]}")
    late = [name for name, each in parts if each.active == "after"]
    if late and keepers:
        raise UsageError(f"{late[0]} acts after the prune, and in {'+'.join(names)} nothing is pruned")
    compensation, reestimates = _compensating(parts)
    return Traits(
        starts_from=start if planner is None else traits[planner].starts_from,
        ranking="+".join(ranked) or (*rankings, LAYER)[0],
        prunes=not keepers,
        native=all(traits[k].native for k in able) if able else any(each.native for each in traits),
        active="before",
        kinds=tuple(dict.fromkeys(kind for each in traits for kind in each.kinds)),
        compensation=compensation,
        reestimates=reestimates,
        depends=frozenset(),
        config={f"{name}.{key}": value for name, each in parts for key, value in each.config.items()},
        decides=frozenset().union(*(each.decides for each in traits)),
    )


def rankers(parts: Sequence[tuple[str, Traits]]) -> list[int]:
    """Places of the parts that rank units, each those of its kinds; UsageError where two rank units of one kind."""
    able = [k for k, (_, traits) in enumerate(parts) if RANKS in traits.decides]
    kinds = [kind for k in able for kind in parts[k][1].kinds]
    if len(kinds) > len(set(kinds)):
        raise UsageError(f"{' and '.join(parts[k][0] for k in able)} cannot be composed: both {RANKS}")
    return able


def _compensating(parts: Sequence[tuple[str, Traits]]) -> tuple[str | None, int | None]:
    """Compensation and batches of a composition; UsageError where parts want the same, or in wrong order."""
    able = [(name, each) for name, each in parts if each.compensation or each.reestimates is not None]
    whole = "+".join(name for name, _ in parts)
    if able and not all(each.prunes for _, each in parts):
        raise UsageError(f"{able[0][0]} compensates what is cut, and in {whole} nothing is pruned")
    first = [name for name, each in able if each.compensation]
    last = [name for name, each in able if each.reestimates is not None]
    for found in (first, last):
        if len(found) > 1:
            raise UsageError(f"{found[0]} and {found[1]} cannot be composed: one of them compensates")
    if last and able[-1][0] != last[0]:
        raise UsageError(f"{whole}: {last[0]} comes after {able[-1][0]}, as it acts after it")
    traits = dict(able)
    return traits[first[0]].compensation if first else None, traits[last[0]].reestimates if last else None


def deciding(decision: str, parts: Sequence[tuple[str, Traits]]) -> int | None:
    """Place of the one part that takes a decision itself, None where none does; UsageError where several do."""
    able = [k for k, (_, traits) in enumerate(parts) if decision in traits.decides]
    if len(able) > 1:
        raise UsageError(f"{' and '.join(parts[k][0] for k in able)} cannot be composed: both {decision}")
    return able[0] if able else None


def _of_name(name: str, options: Mapping[str, Any] | None = None) -> Traits | None:
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
        config, attributes, decides = _facts(name, ROOT / place, int(line))
        made = method_config(config, options or {}, name)
        values = {key: _value(expression, made) for key, (expression, _) in attributes.items()}
    except UNREADABLE:
        return None
    if not all(isinstance(values[key], kind) for key, kind in ATTRIBUTES.items()):
        return None
    depends = frozenset(key for key, (_, computed) in attributes.items() if computed)
    return Traits(**values, depends=depends, config=non_default(made), decides=decides)


def of_class(cls: Any) -> Traits:
    """The traits of a method's class, which was imported, with its default options."""
    return of_method(cls())


def of_method(method: Any) -> Traits:
    """The traits of a method, or a composition, that was made."""
    depends = frozenset(key for key in ATTRIBUTES if isinstance(inspect.getattr_static(type(method), key), property))
    decides = frozenset(what for what, hooks in DECISIONS.items() if any(map(method.bound, hooks)))
    values = {key: getattr(method, key) for key in ATTRIBUTES}
    config = {
        key if part is method else f"{part.name}.{key}": value
        for part in method.members
        for key, value in non_default(part.config).items()
    }
    return Traits(**values, depends=depends, config=config, decides=decides)


DEFINITIONS = (ast.ClassDef, ast.FunctionDef)
Attributes = dict[str, tuple[ast.expr, bool]]
"""Name -> the expression of an attribute, and whether it is computed from the options."""
Facts = tuple[type, Attributes, frozenset[str]]
"""Class of the options, attributes, decisions."""


@cache
def _facts(name: str, file: Path, line: int) -> Facts:
    """What is known of the method that is defined in a line of a file; raises one of ``UNREADABLE``."""
    tree, text = parsed(file)
    node = next(n for n in ast.walk(tree) if isinstance(n, DEFINITIONS) and n.lineno == line)
    return _of_class(node, tree, text) if isinstance(node, ast.ClassDef) else _of_function(name, node)


def _of_function(name: str, node: ast.FunctionDef) -> Facts:
    """What is known of a function under one of the decorators that make a method of it."""
    call = next(
        call
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant) and call.args[0].value == name
    )
    given = {str(keyword.arg): keyword.value for keyword in call.keywords}
    options = {key: ast.literal_eval(value) for key, value in given.items() if key not in HIDDEN}
    fields: list[tuple[str, Any, Any]] = []
    if looks_at_data(given.get("needs")):
        limit = options.pop("batches", None)
        fields.append(("batches", int | None, dataclasses.field(default=limit)))
    fields += [(key, type(value), dataclasses.field(default=value)) for key, value in options.items()]
    ranks = getattr(call.func, "id", "") == "importance"
    ranking = ast.literal_eval(given["ranking"]) if "ranking" in given else LAYER
    kinds = ast.literal_eval(given["kinds"]) if "kinds" in given else KINDS
    values = ("base" if ranks else "init", ranking, True, False, "before", kinds, None, None)
    attributes: Attributes = {
        key: (ast.parse(repr(value), mode="eval").body, False) for key, value in zip(ATTRIBUTES, values, strict=True)
    }
    decides = frozenset({RANKS} if ranks else ())
    return dataclasses.make_dataclass("Config", fields, frozen=True), attributes, decides


def _of_class(node: ast.ClassDef, tree: ast.Module, text: str) -> Facts:
    """What is known of a class; LookupError where an attribute is not found."""
    chain = [*_chain(node, tree, text)]
    own = {name for each in chain if each.name != ROOT_CLASS for line in each.body for name in _defined(line)}
    decides = frozenset(what for what, hooks in DECISIONS.items() if own & set(hooks))
    return _config(chain), {key: _attribute(key, chain) for key in ATTRIBUTES}, decides


def _defined(line: ast.stmt) -> Iterator[str]:
    """Names that a line of a class defines."""
    if isinstance(line, ast.FunctionDef):
        yield line.name
    yield from (target.id for target in _targets(line) if isinstance(target, ast.Name))


def _targets(line: ast.stmt) -> list[ast.expr | None]:
    return [*line.targets] if isinstance(line, ast.Assign) else [getattr(line, "target", None)]


def _chain(node: ast.ClassDef, tree: ast.Module, text: str) -> Iterator[ast.ClassDef]:
    """The class and those that it derives from; LookupError where one is not found."""
    while True:
        yield node
        if node.name == ROOT_CLASS or not node.bases:
            return
        if len(node.bases) > 1:
            raise LookupError(f"{node.name} has several bases")
        node, tree, text = class_of(ast.unparse(node.bases[0]), tree, text)


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
            targets = _targets(line)
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
