"""Methods that declare or choose what they must not, each in one way that one check must find."""

import itertools
import sys
import time
from dataclasses import dataclass

import torch

from bench.api import PRUNE, Method, Paper, Phase, importance, method

CALLS = itertools.count()


def norms(ctx):
    return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}


class FromBase(Method):
    """Prunes the base at once."""

    starts_from = "base"


@importance("undocumented")
def undocumented(site):
    return site.rows().norm(dim=1)


@importance("half_a_paper", paper=Paper("", 2020, "", ""))
def half_a_paper(site):
    """Its paper has no title."""
    return site.rows().norm(dim=1)


@method("wrong_default")
class WrongDefault(FromBase):
    """A default that cannot be given on the command line."""

    @dataclass(frozen=True)
    class Config:
        batches: int = None


@method("thawed")
class Thawed(FromBase):
    """Options that a hook could change."""

    @dataclass
    class Config:
        batches: int = 1


@method("divides_options")
class DividesOptions(FromBase):
    """A bad option ends in a traceback."""

    @dataclass(frozen=True)
    class Config:
        every: int = 2

        def __post_init__(self):
            assert 100 // self.every, "too often"


@method("moody_plan")
class MoodyPlan(Method):
    """Trains for as long as it feels like."""

    def plan(self, ctx):
        return (Phase(1 + next(CALLS) % 3), PRUNE, Phase(1, "finetune"))


@method("warm_up_part")
class WarmUpPart(Method):
    """A part that no recipe has."""

    def plan(self, ctx):
        return (Phase(1, "warmup"), PRUNE)


@method("from_scratch")
class FromScratch(Method):
    """A starting point that does not exist."""

    starts_from = "scratch"


@method("crashes")
class Crashes(FromBase):
    """Raises."""

    def scores(self, ctx):
        return norms(ctx)["no such site"]


@method("exits")
class Exits(FromBase):
    """Takes the whole process down."""

    def scores(self, ctx):
        sys.exit(3)


@method("hangs")
class Hangs(FromBase):
    """Computes for ever."""

    def scores(self, ctx):
        while True:
            pass


@method("waits")
class Waits(FromBase):
    """Waits for ever without computing."""

    def scores(self, ctx):
        while True:
            time.sleep(0.01)


@importance("whole_numbers")
def whole_numbers(site):
    """Scores that are ranks."""
    return site.rows().norm(dim=1).argsort().argsort()


@importance("per_norm")
def per_norm(site):
    """Not a number for a unit of zeros."""
    return site.rows().abs().sum(dim=1) / site.rows().norm(dim=1)


@importance("needs_norms")
def needs_norms(site):
    """Takes for granted that there is a batch norm."""
    return site.gamma() * 2


@importance("min_max")
def min_max(site):
    """Not a number where all units are of one size, such as one unit."""
    size = site.rows().norm(dim=1)
    return (size - size.min()) / (size.max() - size.min())


@method("no_first_reader")
class NoFirstReader(FromBase):
    """Says that it works on blocks, and asks what reads them."""

    kinds = ("conv", "linear", "block")

    def scores(self, ctx):
        widths = {name: site.consumers[0].width for name, site in ctx.sites.items()}
        return {name: site.rows().norm(dim=1) / widths[name] for name, site in ctx.sites.items()}


@method("one_unit")
class OneUnit(FromBase):
    """Keeps a unit a site, whatever was asked."""

    def select(self, ctx, budget):
        masks = {name: torch.zeros(site.n_units, dtype=torch.bool) for name, site in ctx.sites.items()}
        for mask in masks.values():
            mask[0] = True
        return masks


@method("half_steps")
class HalfSteps(FromBase):
    """Keeps a unit less than would fit, also where whole steps are asked for."""

    def select(self, ctx, budget):
        masks = ctx.rank(norms(ctx), "layer")
        for mask in masks.values():
            if mask.sum() > budget.min_keep:
                mask[mask.nonzero()[0]] = False
        return masks


@method("macs_only")
class MacsOnly(FromBase):
    """Does not know the other budget."""

    def select(self, ctx, budget):
        assert budget.keep_macs < 1
        return super().select(ctx, budget)


@importance("one_producer")
def one_producer(site):
    """Takes for granted that one layer makes a site."""
    if len(site.producers) > 1:
        raise KeyError(site.name)
    return site.rows().norm(dim=1)


@method("not_really_native")
class NotReallyNative(FromBase):
    """Says that it chooses its own sparsity, and waits for a budget."""

    native = True

    def select(self, ctx, budget):
        assert budget.keep < 1
        return super().select(ctx, budget)


@importance("first_come")
def first_come(site):
    """Ranks by place."""
    return -torch.arange(1.0, site.n_units + 1)
