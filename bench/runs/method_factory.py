"""Methods by name: with their options, and the source that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.spec import source_hash
from bench.spec.decode import method_config
from bench.spec.method_traits import options_of
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
        methods.append(cls(method_config(cls.Config, options_of(name, names, options), name)))
    return compose(methods)


def method_source(method: Method) -> Source:
    """The source of a method, or of all parts of a composition, with the local modules that it imports."""
    return source_hash.of_files(*(Path(METHODS.origin(str(part.name)).rpartition(":")[0]) for part in method.members))


def method_digest(method: Method) -> str:
    """Hash of that source."""
    return method_source(method).sha256
