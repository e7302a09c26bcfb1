"""Methods that break the contract, each in one way."""

from dataclasses import dataclass

import torch

from bench.api import STATISTICS, Method, importance, method


@importance("nan_scores")
def nan_scores(site):
    """Not numbers."""
    return site.rows().sum(dim=1) * float("nan")


@importance("wrong_shape")
def wrong_shape(site):
    """One score too few."""
    return site.rows().sum(dim=1)[1:]


@method("empty_masks")
class EmptyMasks(Method):
    """Keeps nothing."""

    starts_from = "base"

    def select(self, ctx, budget):
        return {name: torch.zeros(site.n_units, dtype=torch.bool) for name, site in ctx.sites.items()}


@method("over_budget")
class OverBudget(Method):
    """Keeps everything, whatever was asked."""

    starts_from = "base"

    def select(self, ctx, budget):
        return ctx.masks


@method("odd_widths")
class OddWidths(Method):
    """Keeps all units but one of each site."""

    starts_from = "base"

    def select(self, ctx, budget):
        return {name: torch.arange(site.n_units) > 0 for name, site in ctx.sites.items()}


@method("float_masks")
class FloatMasks(Method):
    """Masks that are not boolean."""

    starts_from = "base"

    def select(self, ctx, budget):
        return {name: torch.ones(site.n_units) for name, site in ctx.sites.items()}


@method("missing_site")
class MissingSite(Method):
    """Forgets a site."""

    starts_from = "base"

    def scores(self, ctx):
        return {name: torch.ones(site.n_units) for name, site in list(ctx.sites.items())[1:]}


@method("wants_test")
class WantsTest(Method):
    """Asks for the test set."""

    def on_epoch_end(self, ctx):
        next(ctx.batches("test"))


@method("diverges")
class Diverges(Method):
    """Makes the loss infinite."""

    def penalty(self, ctx):
        return torch.tensor(float("inf")) * next(iter(ctx.sites.values())).rows().sum()


HOOKS = ("on_phase_start", "penalty", "on_backward_end", "on_step_end", "on_epoch_end", "on_phase_end")


@method("raises")
class Raises(Method):
    """Raises in the hook ``where``, with everything a method can put on a network in place."""

    @dataclass(frozen=True)
    class Config:
        where: str = "prepare"

    def fail(self, where):
        if self.config.where == where:
            raise ZeroDivisionError(f"on purpose in {where}")

    def plan(self, ctx):
        self.fail("plan")
        return super().plan(ctx)

    def prepare(self, ctx):
        name = next(iter(ctx.sites))
        self.layer = torch.nn.Dropout(0.1)
        ctx.insert(name, self.layer)
        ctx.track(name, STATISTICS["act_mean"], 0.9)
        self.fail("prepare")

    def on_batch_start(self, ctx):
        ctx.gate({name: torch.ones(site.n_units) for name, site in ctx.sites.items()})
        self.fail("on_batch_start")

    def scores(self, ctx):
        self.fail("scores")
        return super().scores(ctx)

    def select(self, ctx, budget):
        self.fail("select")
        return super().select(ctx, budget)

    def finalize(self, ctx):
        self.fail("finalize")


def failing(hook):
    def fail(self, ctx):
        self.fail(hook)
        return 0.0

    return fail


for hook in HOOKS:
    setattr(Raises, hook, failing(hook))
