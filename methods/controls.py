"""Controls: what every method has to be compared with."""

import torch

from bench.api import PRUNE, Method, Phase, method
from methods.papers import BLALOCK2020, LIU2019


@method("dense")
class Dense(Method):
    """No pruning: the base, trained on for the fine-tuning epochs, so that its total equals everyone's."""

    starts_from = "base"
    prunes = False

    def plan(self, ctx):
        """Fine-tune only."""
        return (Phase(ctx.recipe.finetune.epochs, "finetune"),)


@method("random", paper=BLALOCK2020)
class Random(Method):
    """Random units, the same share of every site: what any method has to beat."""

    starts_from = "base"

    def scores(self, ctx):
        """Uniform random numbers."""
        return {n: torch.rand(s.n_units, generator=ctx.rng, device=ctx.device) for n, s in ctx.sites.items()}


@method("uniform_thin", paper=LIU2019)
class UniformThin(Method):
    """The same share of every site, trained from scratch for as many epochs as the others in all (scratch-E)."""

    def plan(self, ctx):
        """Slice at once, draw fresh weights, train."""
        return (PRUNE, Phase(ctx.recipe.train.epochs + ctx.recipe.finetune.epochs, "train", rewind="fresh"))

    def scores(self, ctx):
        """Equal shares under any ranking; which units stay does not matter, their weights are drawn afresh."""
        return {n: -torch.arange(1.0, s.n_units + 1) / s.n_units for n, s in ctx.sites.items()}
