"""Penalties on the size of units while the network trains; then the small ones go.

The l1/l2 pseudo-norm and what its paper compares it with, under one removal rule. The paper's full text was not at
hand and nobody publishes code: the exact term, its weight and the threshold are ours (docs/methods/l1l2.md).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from bench.api import Method, method, require_ranges
from methods.papers import HAN2015, L1L2, WEN2016

EPS = 1e-8


def sizes(rows, p=2):
    """l1 or l2 norm of each row, ``[n, k] -> [n]``; the gradient of the l2 norm is finite at zero."""
    return rows.abs().sum(dim=1) if p == 1 else (rows.square().sum(dim=1) + EPS**2).sqrt()


def ratio(norms):
    """``l1 / l2`` of a vector of sizes: from 1 (one is left) to sqrt(n) (all are equal)."""
    return norms.sum() / (norms.square().sum() + EPS**2).sqrt()


VARIANTS = {  # of the pseudo-norm, of weights [n_units, inputs, positions]
    "v3": lambda w: ratio(sizes(w.flatten(1))),
    "v3_l1": lambda w: ratio(sizes(w.flatten(1), 1)),
    "v2": lambda w: ratio(w.flatten().abs()),
    "v1": lambda w: (sizes(w.flatten(1), 1) / sizes(w.flatten(1))).sum(),
    "v4": lambda w: ratio(sizes(w.flatten(0, 1))),
}


class Penalty(Method):
    """Train with ``strength * sum of term(weights)`` over sites, remove what has become small.

    A subclass says what ``term`` is of weights ``[n_units, inputs, positions]``.
    """

    native = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        strength: float | None = None  # weight of the term; none: such that it starts at ``share`` of the loss (ours)
        share: float = 0.1  # of the first loss, where strength is not given (ours)
        ramp: float = 0.1  # share of the epochs over which the weight rises from zero (ours)
        target: Literal["weights", "bn_gamma"] = "weights"  # what the term is taken of; no norm: weights (ours)
        threshold: float = 0.01  # native track: units up to this share of their site's largest go (ours)

        def __post_init__(self):
            require_ranges(self, strength="[0, inf)", share="[0, inf)", ramp="[0, inf)", threshold="[0, 1)")

    def prepare(self, ctx):
        """The weight of the term, known once the first loss is."""
        self.register_buffer("strength", torch.tensor(self.config.strength or 0.0, device=ctx.device))

    def total(self, ctx):
        """The term summed over sites."""
        return sum(self.term(self.weights(site)) for site in ctx.sites.values())

    def weights(self, site):
        """What the term is taken of."""
        gamma = site.gamma() if self.config.target == "bn_gamma" else None
        return site.kernels() if gamma is None else gamma[:, None, None]

    def on_phase_start(self, ctx):
        """Set the weight of the term so that it starts at its share of the loss."""
        if self.config.strength is None:
            x, y = next(ctx.batches())
            with ctx.probe(batch_statistics=True):
                loss = F.cross_entropy(ctx.forward(x).float(), y)
                self.strength.copy_(self.config.share * loss / self.total(ctx))

    def now(self, ctx):
        """The weight at this step."""
        steps = self.config.ramp * ctx.recipe.train.epochs
        return self.strength * (min(1.0, ctx.progress / steps) if steps else 1.0)

    def penalty(self, ctx):
        """Weight times term."""
        return self.now(ctx) * self.total(ctx)

    @torch.no_grad()
    def scores(self, ctx):
        """Size of each unit as the next layer sees it: ``|gamma|``, or the norm of the weights through its norm."""
        by_gamma = self.config.target == "bn_gamma"
        return {
            n: s.gamma() if by_gamma and s.gamma() is not None else s.effective_norm() for n, s in ctx.sites.items()
        }

    def select(self, ctx, budget):
        """The largest within the budget; in the native track all above the threshold, at once."""
        return self.large(ctx) if ctx.native else ctx.rank(self.scores(ctx), self.ranking)

    def large(self, ctx):
        """Units above the threshold, at least the largest of each site."""
        return {n: (s > self.config.threshold * s.max()) | (s == s.max()) for n, s in self.scores(ctx).items()}

    @torch.no_grad()
    def on_epoch_end(self, ctx):
        """How many units are small by now, and how unequal the sizes of each site are: from 0 to 1 (one is left)."""
        ctx.log(small=sum((~large).sum() for large in self.large(ctx).values()))
        for name, site in ctx.sites.items():
            most = site.n_units**0.5
            if site.n_units > 1:
                found = (most - ratio(sizes(self.weights(site).flatten(1)))) / (most - 1)
                ctx.log(**{f"hoyer {name}": found.clamp(0, 1)})


@method("l1l2", paper=L1L2)
class PseudoNorm(Penalty):
    """l1/l2 pseudo-norm: scale-free sparsity of the units of a site; small units are removed at the end, in one go."""

    @dataclass(frozen=True)
    class Config(Penalty.Config):
        """Options."""

        variant: Literal["v3", "v3_l1", "v2", "v1", "v4"] = "v3"  # what the ratio is taken over (ours)
        proximal: bool = False  # v3: the l1 part as a proximal step, which reaches zero (ours)

        def __post_init__(self):
            super().__post_init__()
            if self.proximal and (self.variant != "v3" or self.target != "weights"):
                raise ValueError("proximal: only with variant v3 on weights")

    def term(self, weights):
        """``R`` of one site; with a proximal step without the gradient of its l1 part."""
        if not self.config.proximal:
            return VARIANTS[self.config.variant](weights)
        norms = sizes(weights.flatten(1))
        return norms.sum().detach() / (norms.square().sum() + EPS**2).sqrt()

    @torch.no_grad()
    def on_step_end(self, ctx):
        """``w_i <- w_i max(0, 1 - rate * weight / (N n_i))``, N the norm of the whole layer.

        The rate is what momentum makes of the recipe's: the other part of the term goes through the optimizer.
        """
        rate = ctx.rate / (1 - ctx.recipe.momentum)
        for site in ctx.sites.values() if self.config.proximal else ():
            norms = sizes(site.rows())
            shrink = (1 - rate * self.now(ctx) / (norms * norms.norm()).clamp(min=EPS)).clamp(min=0)
            for weight in site.weights():
                weight.mul_(shrink.reshape(-1, *[1] * (weight.dim() - 1)))


@method("group_lasso", paper=WEN2016)
class GroupLasso(Penalty):
    """Sum of the l2 norms of the units' weights (Wen et al. 2016, eq. 2, filter-wise)."""

    def term(self, weights):
        """``sum of ||w_i||_2``."""
        return sizes(weights.flatten(1)).sum()


@method("l1_penalty", paper=HAN2015)
class L1Penalty(Penalty):
    """Sum of the absolute weights, with the removal rule of l1l2."""

    def term(self, weights):
        """``||W||_1``."""
        return weights.abs().sum()


@method("l2_penalty", paper=HAN2015)
class L2Penalty(Penalty):
    """Sum of the squared weights in addition to the recipe's decay, with the removal rule of l1l2."""

    def term(self, weights):
        """``||W||_2^2``."""
        return weights.square().sum()
