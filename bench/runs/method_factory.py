"""Methods by name: with their options, and the source that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.spec import source_hash
from bench.spec.decode import method_config
from bench.spec.registry import METHODS, method_names
from bench.spec.source_hash import Source
from bench.training.composition import compose
from bench.training.method import Method


def make_method(text: str, options: Mapping[str, Any]) -> Method:
    """The method ``a`` or ``a+b`` with options ``key`` or, where there are parts, ``a.key``; raises UsageError.

    ``options`` are values, as a specification has them, or texts, which are parsed.
    """
    names = method_names(text)
    methods = []
    for name in names:
        cls = METHODS.get(name)
        mine = {
            k.removeprefix(f"{name}."): v for k, v in options.items() if k.startswith(f"{name}.") or len(names) == 1
        }
        methods.append(cls(method_config(cls.Config, mine, name)))
    stray = [k for k in options if len(names) > 1 and k.partition(".")[0] not in names]
    if stray:
        raise UsageError(f"option '{stray[0]}': say whose it is, such as {names[0]}.{stray[0]}")
    return compose(methods)


def method_source(method: Method) -> Source:
    """The source of a method, or of all parts of a composition, with the local modules that it imports."""
    return source_hash.of_files(*(Path(METHODS.origin(str(part.name)).rpartition(":")[0]) for part in method.members))


def method_digest(method: Method) -> str:
    """Hash of that source."""
    return method_source(method).sha256
