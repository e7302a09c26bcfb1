"""Checks that only watch a plain run: all of them watch the same one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any

from bench.conformance.checks import Broken
from bench.conformance.subject import Subject, Watch
from bench.training.context import Context

OBSERVERS: dict[str, Callable[[Subject], AbstractContextManager[Watch]]] = {}
"""Name of a check -> what watches a run for it."""


def observing(function: Callable[[Subject], Iterator[Watch]]) -> Callable[[Subject], None]:
    """A check of a generator that yields what watches a plain run, and changes nothing in it."""
    OBSERVERS[function.__name__] = contextlib.contextmanager(function)

    @wraps(function)
    def tried(subject: Subject) -> None:
        found = observe(subject)
        if function.__name__ in found:
            raise found[function.__name__]

    return tried


def observe(subject: Subject) -> Mapping[str, Exception]:
    """What the observers of a plain run found, by check: or for each of them why it failed. It is made once."""
    if subject.observed is None:
        found: dict[str, Exception] = {}
        with contextlib.ExitStack() as stack:
            watches = {name: stack.enter_context(make(subject)) for name, make in OBSERVERS.items()}

            def watch(hook: str, ctx: Context, call: Callable[[], Any]) -> Any:
                for name, each in watches.items():
                    call = partial(_guarded, found, name, each, hook, ctx, call)
                return call()

            try:
                subject.run(watch=watch)
            except Exception as error:
                found |= {name: error for name in watches if name not in found}
        subject.observed = found
    return subject.observed


def _guarded(
    found: dict[str, Exception], name: str, watch: Watch, hook: str, ctx: Context, call: Callable[[], Any]
) -> Any:
    """What ``watch`` returns of a hook; what the hook does once it has found something."""
    results: list[Any] = []

    def kept() -> Any:
        results.append(call())
        return results[0]

    try:
        return call() if name in found else watch(hook, ctx, kept)
    except Broken as broken:
        found.setdefault(name, broken)  # the innermost hook is the cause
        return results[0] if results else call()
