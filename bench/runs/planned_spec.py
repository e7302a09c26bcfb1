"""Specifications from what the source of a method says, for commands that only print or look for runs: no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from bench.errors import UsageError
from bench.measure.processor import precision_without_torch
from bench.records import fields
from bench.spec import method_traits
from bench.spec.recipe import Recipe
from bench.spec.registry import method_names
from bench.spec.spec import Budget, Spec


class Declared(Protocol):
    """What decides a specification: a method, or what its source says."""

    @property
    def prunes(self) -> bool:
        """See :class:`bench.api.Method`."""

    @property
    def native(self) -> bool:
        """See :class:`bench.api.Method`."""

    @property
    def ranking(self) -> str:
        """See :class:`bench.api.Method`."""


def planned_spec(
    method: str,
    arch: str,
    dataset: str,
    recipe: Recipe,
    budget: Budget | None,
    seed: int = 0,
    coupling: str = "inner",
    options: Mapping[str, str] | None = None,
    device: str = "auto",
) -> Spec | None:
    """What :func:`bench.runs.method_factory.make_spec` returns; None where that takes the method itself, or the device.

    Raises UsageError.
    """
    names = method_names(method)
    precision = precision_without_torch(device) if recipe.precision == "auto" else recipe.precision
    if precision is None or len(names) > 1:
        return None
    recipe = dataclasses.replace(recipe, precision=precision)
    found = method_traits.of(names[0], options)
    if found is None:
        return None
    return assembled(names[0], found, found.config, arch, dataset, recipe, budget, seed, coupling)


def assembled(
    method: str,
    declared: Declared,
    config: Mapping[str, Any],
    arch: str,
    dataset: str,
    recipe: Recipe,
    budget: Budget | None,
    seed: int,
    coupling: str,
) -> Spec:
    """A specification of parts that are known; raises UsageError where they do not go together."""
    if budget is None and declared.prunes and not declared.native:
        raise UsageError(f"method '{method}' does not choose its own sparsity: give --keep-macs, not --native")
    if budget and budget.ranking == declared.ranking:
        budget = dataclasses.replace(budget, ranking=None)
    spec = Spec(method, arch, dataset, recipe, budget if declared.prunes else None, seed, coupling, config)
    _require_readable(spec)
    return spec


def _require_readable(spec: Spec) -> None:
    """Refuse, before hours of training, names and options that no record may have; raises UsageError."""
    asked = spec.as_dict()
    for what, value, kind in (
        ("method", asked["method"], fields.method_name),
        ("architecture", asked["arch"], fields.label),
        ("data set", asked["dataset"], fields.label),
        ("recipe", asked["recipe"]["name"], fields.label),
        ("options", asked["config"], fields.options),
    ):
        try:
            kind(value)
        except fields.Wrong as wrong:
            raise UsageError(f"{wrong.inside(what)}; choose another") from None
