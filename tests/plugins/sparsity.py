"""Methods that choose their own sparsity, and importances of what a network does with images."""

from dataclasses import dataclass

import torch

from bench.api import STATISTICS, Method, importance, method, regularizer


@method("own_share")
class OwnShare(Method):
    """Keeps a share of each site that is its own in the native track, and what the budget allows in the other."""

    starts_from = "base"
    native = True

    @dataclass(frozen=True)
    class Config:
        share: float = 0.25
        powers: tuple[int, ...] = (1, 2)

    def select(self, ctx, budget):
        if not ctx.native:
            return super().select(ctx, budget)
        ctx.log(fits=ctx.fits(ctx.sites.widths), keep=budget.keep)
        masks = {}
        for name, score in self.scores(ctx).items():
            masks[name] = score >= score.topk(max(1, int(self.config.share * len(score)))).values.min()
        return masks


@importance("mean_activation", needs="activations")
def mean_activation(site, activations):
    """Mean absolute activation."""
    assert activations.dim() >= 3
    return STATISTICS["act_mean"](activations)


@importance("gate_power", ranking="global", needs="gate_gradients", batches=2, power=2.0)
def gate_power(site, gradients, power):
    """A power of the absolute gate gradients."""
    return gradients.abs().pow(power).mean(dim=0)


@regularizer("pull", strength=1e-4)
def pull(site, strength):
    """Squared weights."""
    return strength * site.rows().square().sum()


@importance("wrong_values", needs="activations")
def wrong_values(site, activations):
    """A unit too few."""
    return torch.zeros(site.n_units - 1)
