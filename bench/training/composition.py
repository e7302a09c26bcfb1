"""Compositions ``a+b``: one method of several, each with its hooks, one of them deciding what only one can decide."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from bench.errors import Unsupported, UsageError
from bench.pruning.masks import Masks, Scores
from bench.pruning.sites import Site, Sites
from bench.spec.method_traits import PLANS, deciding, of_method, rankers, together
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.method import Method
from bench.training.plan import Plan

ACTING = (
    "on_batch_start",
    "penalty",
    "on_backward_end",
    "on_step_end",
    "on_epoch_end",
    "on_phase_start",
    "on_phase_end",
)
"""Hooks in which a method may do something to every site."""


class Composed(Method):
    """``a+b``: all hooks of all parts; at most one part may rank the units of a kind, and one have a plan.

    Attributes:
        rankers: the parts that rank units, each those of its kinds; ``ranking`` is that of the first.
        starts_from: of the part with a plan; without one ``base`` if all parts start there.
        native: of the part that ranks; without one, whether any part is.
    """

    def __init__(self, parts: Iterable[Method]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        methods = self.members
        self.name = "+".join(part.name for part in methods)
        own = [(part.name, of_method(part)) for part in methods]
        traits, self._planner = together(own), deciding(PLANS, own)
        self.rankers = [methods[k] for k in rankers(own)]
        for name in ("ranking", "starts_from", "native", "prunes", "kinds", "compensation", "reestimates"):
            setattr(self, name, getattr(traits, name))
        self.writes = tuple({hook: None for part in methods for hook in part.writes})
        if len(self.rankers) > 1:
            self.ranking = self.rankers[0].ranking
            if chooser := next((part.name for part in self.rankers if part.bound("select")), None):
                raise UsageError(f"{chooser} chooses units itself: it cannot be composed with another that ranks some")
        for part in methods:
            object.__setattr__(part, "_whole", self)  # as a submodule it would contain itself
            if part not in self.rankers and not isinstance(inspect.getattr_static(part, "ranking"), property):
                part.ranking = self.ranking

    @property
    def members(self) -> list[Method]:
        """Its parts."""
        return [part for part in self.parts if isinstance(part, Method)]

    def bound(self, hook: str) -> list[Callable[..., Any]]:
        """The implementations of all parts."""
        return [f for part in self.members for f in part.bound(hook)]

    def exempt(self, site: Site) -> bool:
        """Of the part that ranks units of its kind; without one, whether any part exempts the site."""
        ranking = [part for part in self.rankers if site.kind in part.kinds]
        return any(part.exempt(site) for part in ranking or self.members)

    def require(self, sites: Sites) -> None:
        """All parts must work with ``sites``; one that does nothing but rank, with those that no other part ranks."""
        for part in self.members:
            others = {kind for other in self.rankers if other is not part for kind in other.kinds}
            if part not in self.rankers or any(map(part.bound, ACTING)):
                others = set()
            mine = {name: site for name, site in sites.items() if site.kind not in others}
            if not mine:
                raise Unsupported(f"{part.name} ranks {' and '.join(part.kinds)} sites: there is none (see --units)")
            part.require(Sites(mine, sites.rejected, sites.coupling))

    def plan(self, ctx: Context) -> Plan:
        """The plan of the part that has one; otherwise train (if any part does), prune, fine-tune."""
        return super().plan(ctx) if self._planner is None else self.members[self._planner].plan(ctx)

    def scores(self, ctx: Context) -> Scores:
        """Of the parts that rank, each of the sites of its kinds."""
        if len(self.rankers) < 2:
            return self.rankers[0].scores(ctx) if self.rankers else super().scores(ctx)
        found = {part: part.scores(ctx) for part in self.rankers}
        whose = {name: next(p for p in found if site.kind in p.kinds) for name, site in ctx.sites.items()}
        return {name: found[part][name] for name, part in whose.items() if name in found[part]}

    def select(self, ctx: Context, budget: Budget) -> Masks:
        """Of the parts that rank."""
        if len(self.rankers) < 2:
            return self.rankers[0].select(ctx, budget) if self.rankers else super().select(ctx, budget)
        rankings = {kind: part.ranking for part in self.rankers for kind in part.kinds}
        channels = next(ranking for kind, ranking in rankings.items() if kind != "block")
        return ctx.rank(self.scores(ctx), channels, rankings.get("block"))


def compose(methods: list[Method]) -> Method:
    """One method, or several as one; raises UsageError when two of them want the same decision."""
    return methods[0] if len(methods) == 1 else Composed(methods)
