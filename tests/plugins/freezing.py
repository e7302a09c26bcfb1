"""Methods that freeze a growing part of their network: through the context, or not as they should."""

import torch

from bench.api import PRUNE, Method, Phase, method


@method("growing_prefix")
class GrowingPrefix(Method):
    """Freezes up to one site more after each epoch."""

    def on_epoch_end(self, ctx):
        """Sites are in the order of the forward pass."""
        sites = list(ctx.sites.values())
        ctx.freeze(sites[min(ctx.epoch, len(sites) - 1)])


@method("freezes_between_phases")
class FreezesBetweenPhases(Method):
    """Trains in two phases, the second one without the first site, from which the worst units are cut."""

    def plan(self, ctx):
        """As many epochs as others."""
        half = ctx.recipe.train.epochs // 2
        return Phase(half), Phase(ctx.recipe.train.epochs - half), PRUNE, Phase(ctx.recipe.finetune.epochs, "finetune")

    def on_phase_end(self, ctx):
        """Frozen by name, cut while frozen."""
        if ctx.phase == 0:
            ctx.freeze(next(iter(ctx.sites)))
            ctx.shrink({name: self.but_worst(site) for name, site in ctx.sites.items()})

    def but_worst(self, site):
        """Without the unit of the smallest weights, where there are enough."""
        norms = site.rows().detach().norm(dim=1)
        mask = torch.ones(site.n_units, dtype=torch.bool)
        if site.n_units > 5:
            mask[norms.argmin()] = False
        return mask


@method("penalised_prefix")
class PenalisedPrefix(GrowingPrefix):
    """Its penalty is of the first site only, which learns no more after the first epoch."""

    def penalty(self, ctx):
        """No gradient once the site is frozen."""
        return 1e-3 * next(iter(ctx.sites.values())).rows().square().sum()


@method("freezes_more")
class FreezesMore(GrowingPrefix):
    """Freezes a weight by itself beside what it freezes through the context."""

    def on_epoch_end(self, ctx):
        """The last site is not in the prefix."""
        ctx.freeze(next(iter(ctx.sites)))
        list(ctx.sites.values())[-1].weights()[0].requires_grad_(False)


@method("keeps_outputs")
class KeepsOutputs(Method):
    """Keeps the outputs of the first layer for two views of each image."""

    def on_epoch_end(self, ctx):
        """From the second epoch on."""
        ctx.freeze("0", cache=2)
