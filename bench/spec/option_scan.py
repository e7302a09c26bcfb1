"""Options of a method, read from its source: name, default, type, and the comment that explains it.

They are the fields of a class's ``Config``, with those it inherits from classes of the suite, or the keyword arguments
of a function's decorator. Nothing is imported.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from bench.spec.class_scan import class_of

SOURCES = ("paper", "abstract", "code", "third party", "ours")
"""What a comment's closing parenthesis begins with: where the option or its default comes from."""

BARE = re.compile(rf"^({'|'.join(SOURCES)})(:.*)?$")
"""A comment that is a source and nothing else."""
CLOSING = re.compile(rf"^(.*?)\s*\((({'|'.join(SOURCES)})\b[^()]*)\)$")
KINDS = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "None": "none"}
LOOKS = ("activations", "gate_gradients", "block_io")
"""Values of ``needs`` with which an importance is given what the network does with training batches."""
BATCHES = "training batches to look at; none: all of them (ours)"


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: as given after ``-p``.
        default: as given after ``-p NAME=``.
        kind: what its value may be, in words.
        comment: the comment behind it or above it, ``meaning (source)``.
    """

    name: str
    default: str
    kind: str
    comment: str = ""

    @property
    def meaning(self) -> str:
        """The comment without its source."""
        found = CLOSING.match(self.comment)
        return found[1] if found else "" if BARE.match(self.comment) else self.comment

    @property
    def source(self) -> str:
        """One of ``SOURCES`` with what is added to it, empty where the comment has none."""
        found = CLOSING.match(self.comment)
        return found[2] if found else self.comment if BARE.match(self.comment) else ""


def options_of(
    node: ast.ClassDef | ast.FunctionDef, call: ast.Call, tree: ast.Module, text: str, hidden: tuple[str, ...] = ()
) -> tuple[Option, ...]:
    """The options of what ``call`` registers.

    Args:
        node: the decorated class or function.
        call: its decorator.
        tree: the file it is in.
        text: that file's text.
        hidden: keyword arguments of the decorator that are no options.
    """
    if isinstance(node, ast.ClassDef):
        return tuple(_fields(node, tree, text).values())
    comments = comments_of(text)
    given = {str(k.arg): k.value for k in call.keywords}
    limited = looks_at_data(given.get("needs")) and "batches" not in given
    found = [Option("batches", "none", "whole number or none", BATCHES)] if limited else []
    for name, value in given.items():
        if name not in hidden:
            found.append(Option(name, _typed(value, text), _kind_of(value), _comment(value, comments)))
    return tuple(found)


def looks_at_data(needs: ast.expr | None) -> bool:
    """Whether the argument ``needs`` of a decorator, a text or a tuple of them, names one of ``LOOKS``."""
    named = ast.literal_eval(needs) if needs is not None else None
    return bool({named} & set(LOOKS) if isinstance(named, str) else set(named or ()) & set(LOOKS))


@cache
def comments_of(text: str) -> dict[int, str]:
    """Line number -> the comment behind it or, without one, on a line of its own above it."""
    found: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            found[token.start[0] + alone] = token.string.lstrip("# ")
    return found


def _fields(node: ast.ClassDef, tree: ast.Module, text: str) -> dict[str, Option]:
    """Fields of a class's ``Config``: those of the ``Config`` it derives from or, without one of its own, inherits."""
    own = next((n for n in node.body if isinstance(n, ast.ClassDef) and n.name == "Config"), None)
    bases = own.bases if own else node.bases
    found: dict[str, Option] = {}
    comments = comments_of(text)
    for base in reversed(bases):
        parent = base.value if own and isinstance(base, ast.Attribute) else base
        if isinstance(parent, ast.Name):
            with suppress(LookupError, OSError):
                found |= _fields(*class_of(parent.id, tree, text))
    for field in own.body if own else []:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
            name, kind = field.target.id, _kind(field.annotation)
            found[name] = Option(name, _typed(field.value, text), kind, _comment(field, comments))
    return found


def _comment(node: ast.expr | ast.stmt, comments: dict[int, str]) -> str:
    """The comment behind a node, or above it."""
    return comments.get(node.end_lineno or 0) or comments.get(node.lineno, "")


def _typed(value: ast.expr, text: str) -> str:
    """A default as one types it after ``-p``."""
    if isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, bool)):
        return str(value.value).lower()
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return ast.get_source_segment(text, value) or ast.unparse(value)


def _kind(annotation: ast.expr) -> str:
    """A type in words."""
    if isinstance(annotation, ast.BinOp):
        return f"{_kind(annotation.left)} or {_kind(annotation.right)}"
    written = ast.unparse(annotation)
    if isinstance(annotation, ast.Subscript) and written.startswith("Literal["):
        choices = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return ", ".join(f"`{c.value!s}`" for c in choices if isinstance(c, ast.Constant))
    return KINDS.get(written, written)


def _kind_of(value: ast.expr) -> str:
    """The type of a default in words."""
    try:
        return KINDS.get(type(ast.literal_eval(value)).__name__, "")
    except ValueError:
        return ""
