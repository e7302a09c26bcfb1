"""Importances of activations that take more than a line: their variance, the rank of their maps."""

from dataclasses import dataclass

import torch

from bench.api import Method, method, require_ranges
from methods.papers import BERISHA2025, LIN2020


def by_unit(activations):
    """``[B, n_units, ...] -> float32 [n_units, k]``."""
    return activations.float().transpose(0, 1).flatten(1)


@method("act_var", paper=BERISHA2025)
class ActVar(Method):
    """Variance of each unit's activation over training images and positions: 0 for a unit that says nothing."""

    starts_from = "base"

    @dataclass(frozen=True)
    class Config:
        """Options."""

        batches: int | None = None  # training batches to look at; none: all of them (ours)

        def __post_init__(self):
            require_ranges(self, batches="[1, inf)")

    def scores(self, ctx):
        """Mean of the squared distance to the mean, which a first pass takes."""
        means = ctx.mean(lambda site, a: by_unit(a).mean(dim=1), batches=self.config.batches)

        def distance(site, activations):
            return (by_unit(activations) - means[site.name][:, None]).square().mean(dim=1)

        return ctx.mean(distance, batches=self.config.batches)


@method("hrank", paper=LIN2020)
class HRank(Method):
    """Mean rank of each unit's activation map over some training images (Lin et al. 2020)."""

    starts_from = "base"
    needs = ("maps",)

    @dataclass(frozen=True)
    class Config:
        """Options."""

        batches: int = 5  # training batches to look at (code: 5 of 128 images)

        def __post_init__(self):
            require_ranges(self, batches="[1, inf)")

    def exempt(self, site):
        """Neurons have no map."""
        return site.kind == "linear"

    def scores(self, ctx):
        """Mean rank, and in the curve the share of units whose score another unit of their site has, too."""
        ranks = ctx.mean(self.rank, batches=self.config.batches)
        counts = [ranks[n].unique(return_counts=True)[1] for n, s in ctx.sites.items() if not self.exempt(s)]
        ctx.log(ties=sum(c[c > 1].sum() for c in counts) / sum(c.sum() for c in counts))
        return ranks

    def rank(self, site, activations):
        """Mean over images, and over the channels of a unit, of the rank of ``[B, n_units, ..., H, W]`` in float32."""
        if self.exempt(site):
            return torch.zeros(site.n_units, device=activations.device)
        maps = activations.float() if activations.dim() > 3 else activations.float()[..., None]
        return torch.linalg.matrix_rank(maps).float().mean(dim=0).reshape(site.n_units, -1).mean(dim=1)
