"""Compositions ``a+b``: one method of several, each with its hooks, one of them deciding what only one can decide."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from bench.errors import UsageError
from bench.pruning.masks import Masks, Scores
from bench.pruning.sites import Sites
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.method import Method
from bench.training.plan import Plan

DECISIONS = {"rank the units": ("scores", "select"), "plan the training": ("plan",)}


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
        self.ranker, planner = self._part_deciding("rank the units"), self._part_deciding("plan the training")
        rankings = [part.ranking for part in methods if part.ranking != Method.ranking]
        self.ranking = self.ranker.ranking if self.ranker else (*rankings, Method.ranking)[0]
        together = "base" if all(part.starts_from == "base" for part in methods) else "init"
        self.starts_from = planner.starts_from if planner else together
        self.native = self.ranker.native if self.ranker else any(part.native for part in methods)
        self.prunes = all(part.prunes for part in methods)
        if self.ranker and not self.prunes:
            keeper = next(part.name for part in methods if not part.prunes)
            raise UsageError(f"{keeper} keeps every unit: it cannot be composed with {self.ranker.name}")
        late = [part.name for part in methods if part.active == "after"]
        if late and not self.prunes:
            raise UsageError(f"{late[0]} acts after the prune, and in {self.name} nothing is pruned")
        for part in methods:
            object.__setattr__(part, "_whole", self)  # as a submodule it would contain itself
            if not isinstance(inspect.getattr_static(part, "ranking"), property):
                part.ranking = self.ranking

    @property
    def members(self) -> list[Method]:
        """Its parts."""
        return [part for part in self.parts if isinstance(part, Method)]

    def _part_deciding(self, decision: str) -> Method | None:
        """The one part that takes a decision itself, if any does."""
        able = [part for part in self.members if any(part.bound(hook) for hook in DECISIONS[decision])]
        if len(able) > 1:
            raise UsageError(f"{' and '.join(part.name for part in able)} cannot be composed: both {decision}")
        return able[0] if able else None

    def bound(self, hook: str) -> list[Callable[..., Any]]:
        """The implementations of all parts."""
        return [f for part in self.members for f in part.bound(hook)]

    def require(self, sites: Sites) -> None:
        """All parts must work with ``sites``."""
        for part in self.members:
            part.require(sites)

    def plan(self, ctx: Context) -> Plan:
        """The plan of the part that has one; otherwise train (if any part does), prune, fine-tune."""
        planner = self._part_deciding("plan the training")
        return planner.plan(ctx) if planner else super().plan(ctx)

    def scores(self, ctx: Context) -> Scores:
        """Of the part that ranks."""
        return self.ranker.scores(ctx) if self.ranker else super().scores(ctx)

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """Of the part that ranks."""
        return self.ranker.select(ctx, budget) if self.ranker else super().select(ctx, budget)


def compose(methods: list[Method]) -> Method:
    """One method, or several as one; raises UsageError when two of them want the same decision."""
    return methods[0] if len(methods) == 1 else Composed(methods)
