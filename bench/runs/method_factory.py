"""From names and texts, as a user gives them, to a method and a specification."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.measure import environment
from bench.runs.planned_spec import assembled
from bench.spec import source_hash
from bench.spec.decode import method_config, non_default
from bench.spec.recipe import Recipe
from bench.spec.registry import METHODS, method_names
from bench.spec.source_hash import Source
from bench.spec.spec import Budget, Spec
from bench.training.composition import compose
from bench.training.method import Method


def make_spec(
    method: str,
    arch: str,
    dataset: str,
    recipe: Recipe,
    budget: Budget | None,
    seed: int = 0,
    coupling: str = "inner",
    options: dict[str, str] | None = None,
    device: str = "auto",
) -> Spec:
    """A specification with every name and option checked; raises UsageError.

    Without a budget the method chooses its own sparsity (the native track), which not every method can. The precision
    ``auto`` becomes that of ``device``, so that the run's id says which one it is; raises SetupError where the device
    is not there.
    """
    if recipe.precision == "auto":
        precision = environment.pick_precision("auto", environment.pick_device(device))
        recipe = dataclasses.replace(recipe, precision=precision)
    method = "+".join(method_names(method))
    made = make_method(method, options or {})
    config: dict[str, Any] = {}
    for part in made.members:
        changed = non_default(part.config)
        config |= {f"{part.name}.{k}" if len(made.members) > 1 else k: v for k, v in changed.items()}
    return assembled(method, made, config, arch, dataset, recipe, budget, seed, coupling)


def make_method(text: str, options: dict[str, str]) -> Method:
    """The method ``a`` or ``a+b`` with options ``key`` or, where there are parts, ``a.key``; raises UsageError."""
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
