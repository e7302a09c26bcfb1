"""Controls: what every method has to be compared with."""

from dataclasses import dataclass

import torch

from bench.api import PRUNE, Method, Phase, method, require_ranges
from methods.papers import BLALOCK2020, KROGH1991, LIU2017, LIU2019, SRIVASTAVA2014


@method("dense")
class Dense(Method):
    """No pruning: the base, trained on for the fine-tuning epochs, so that its total equals everyone's."""

    prunes = False
    kinds: tuple[str, ...] = ("conv", "linear", "block")

    @dataclass(frozen=True)
    class Config:
        """Options."""

        epochs: int = 0  # train so many from the start instead: as long as the longest method (ours)

        def __post_init__(self):
            require_ranges(self, epochs="[0, inf)")

    @property
    def starts_from(self):
        """The base, unless another length was asked for."""
        return "init" if self.config.epochs else "base"

    def plan(self, ctx):
        """Fine-tune only, or train from the start."""
        if self.config.epochs:
            return (Phase(self.config.epochs),)
        return (Phase(ctx.recipe.finetune.epochs, "finetune"),)


@method("random", paper=BLALOCK2020)
class Random(Method):
    """Random units, the same share of every site: what any method has to beat."""

    starts_from = "base"
    kinds: tuple[str, ...] = ("conv", "linear", "block")

    def scores(self, ctx):
        """Uniform random numbers."""
        return ctx.draw()


@method("uniform_thin", paper=LIU2019)
class UniformThin(Method):
    """The same share of every site, trained from scratch for as many epochs as the others in all (scratch-E)."""

    kinds = ("conv", "linear", "block")

    def plan(self, ctx):
        """Slice at once, draw fresh weights, train."""
        return (PRUNE, Phase(self.epochs(ctx), "train", rewind="fresh"))

    def epochs(self, ctx):
        """As many as the others in all."""
        return ctx.recipe.train.epochs + ctx.recipe.finetune.epochs

    def select(self, ctx, budget):
        """Equal shares under any ranking; which units stay does not matter, their weights are drawn afresh."""
        return ctx.equal_masks()


@method("uniform_thin_long", paper=LIU2019)
class UniformThinLong(UniformThin):
    """The same, trained for as many MACs as the dense network takes in these epochs (scratch-B)."""

    def epochs(self, ctx):
        """More epochs for a smaller network."""
        return round(super().epochs(ctx) / ctx.share(ctx.equal_masks()))


@method("dropout", paper=SRIVASTAVA2014)
class Dropout(Method):
    """Plain dropout of whole units while training: how much of a method's gain is plain regularisation."""

    @dataclass(frozen=True)
    class Config:
        """Options."""

        p: float = 0.2  # chance of a unit to be dropped for an example (ours)

        def __post_init__(self):
            require_ranges(self, p="[0, 1)")

    def on_batch_start(self, ctx):
        """Drop, and scale what stays by ``1 / (1 - p)``."""
        chances = {n: torch.full((w,), 1 - self.config.p, device=ctx.device) for n, w in ctx.sites.widths.items()}
        ctx.keep_at_random(chances, rescale=True)


@method("weight_decay", paper=KROGH1991)
class WeightDecay(Method):
    """Half the squares of all parameters in the loss, besides the recipe's decay: how much of a gain is plain decay."""

    kinds = ("conv", "linear", "block")

    @dataclass(frozen=True)
    class Config:
        """Options."""

        strength: float = 5e-4  # weight of the term (ours)

        def __post_init__(self):
            require_ranges(self, strength="[0, inf)")

    def penalty(self, ctx):
        """``strength / 2`` times the squares of all parameters, whose gradient is ``strength`` times each."""
        return self.config.strength / 2 * sum(p.square().sum() for p in ctx.parameters.values())


@method("slimming", paper=LIU2017)
class Slimming(Method):
    """Network slimming: an l1 term on the scales of batch norms, then one cut over all sites by scale."""

    ranking = "global"
    needs = ("scaled_norm",)

    @dataclass(frozen=True)
    class Config:
        """Options."""

        strength: float = 1e-4  # weight of the term (code: 1e-4 for VGG, 1e-5 for ResNet and DenseNet)

        def __post_init__(self):
            require_ranges(self, strength="[0, inf)")

    def penalty(self, ctx):
        """``strength`` times the sum of ``|gamma|``."""
        return self.config.strength * sum(site.scale().sum() for site in ctx.sites.values())

    def scores(self, ctx):
        """``|gamma|``."""
        return {name: site.scale().detach() for name, site in ctx.sites.items()}
