"""Compositions ``a+b``: one method of several, each with its hooks, one of them deciding what only one can decide."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from bench.pruning.masks import Masks, Scores
from bench.pruning.sites import Sites
from bench.spec.method_traits import PLANS, RANKS, deciding, of_method, together
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.method import Method
from bench.training.plan import Plan


class Composed(Method):
    """``a+b``: all hooks of all parts; at most one part may rank the units, and one have a plan.

    Attributes:
        ranker: the part that ranks the units, None where none does; ``ranking`` is its.
        starts_from: of the part with a plan; without one ``base`` if all parts start there.
        native: of the part that ranks; without one, whether any part is.
    """

    def __init__(self, parts: Iterable[Method]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        methods = self.members
        self.name = "+".join(part.name for part in methods)
        own = [(part.name, of_method(part)) for part in methods]
        traits, ranker, self._planner = together(own), deciding(RANKS, own), deciding(PLANS, own)
        self.ranker = None if ranker is None else methods[ranker]
        for name in ("ranking", "starts_from", "native", "prunes"):
            setattr(self, name, getattr(traits, name))
        for part in methods:
            object.__setattr__(part, "_whole", self)  # as a submodule it would contain itself
            if not isinstance(inspect.getattr_static(part, "ranking"), property):
                part.ranking = self.ranking

    @property
    def members(self) -> list[Method]:
        """Its parts."""
        return [part for part in self.parts if isinstance(part, Method)]

    def bound(self, hook: str) -> list[Callable[..., Any]]:
        """The implementations of all parts."""
        return [f for part in self.members for f in part.bound(hook)]

    def require(self, sites: Sites) -> None:
        """All parts must work with ``sites``."""
        for part in self.members:
            part.require(sites)

    def plan(self, ctx: Context) -> Plan:
        """The plan of the part that has one; otherwise train (if any part does), prune, fine-tune."""
        return super().plan(ctx) if self._planner is None else self.members[self._planner].plan(ctx)

    def scores(self, ctx: Context) -> Scores:
        """Of the part that ranks."""
        return self.ranker.scores(ctx) if self.ranker else super().scores(ctx)

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """Of the part that ranks."""
        return self.ranker.select(ctx, budget) if self.ranker else super().select(ctx, budget)


def compose(methods: list[Method]) -> Method:
    """One method, or several as one; raises UsageError when two of them want the same decision."""
    return methods[0] if len(methods) == 1 else Composed(methods)
