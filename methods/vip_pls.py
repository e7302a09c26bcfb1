"""VIP-PLS: units by their importance in a projection of partial least squares from activations to classes."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from bench.api import Method, method, require_ranges
from methods.papers import JORDAO2018


def standardized(values):
    """Columns of mean 0 and deviation 1; constant ones are 0."""
    deviation = values.std(dim=0)
    return (values - values.mean(dim=0)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def vip(X, Y, components):
    """Variable importance in projection, ``[p]``, of features ``[n, p]`` for responses ``[n, q]`` (PLS2).

    Each component has the weights ``w`` of the largest singular value of ``X^T Y``, the scores ``t = X w`` and the
    loadings ``q = Y^T t / t^T t``; then ``t`` is taken out of both.
    """
    X, Y = standardized(X), standardized(Y)
    weighted, explained = torch.zeros_like(X[0]), torch.finfo(X.dtype).tiny
    for _ in range(components):
        w = torch.linalg.svd(X.T @ Y, full_matrices=False).U[:, 0]
        t = X @ w
        size = t.dot(t).clamp(min=torch.finfo(t.dtype).tiny)
        q = Y.T @ t / size
        X, Y = X - torch.outer(t, X.T @ t / size), Y - torch.outer(t, q)
        share = size * q.dot(q)
        weighted, explained = weighted + share * w.square(), explained + share
    return (len(weighted) * weighted / explained).sqrt()


@method("vip_pls", paper=JORDAO2018)
class VipPls(Method):
    """Importance of each unit's pooled activation for the classes, by partial least squares over all units."""

    starts_from = "base"
    ranking = "global"

    @dataclass(frozen=True)
    class Config:
        """Options."""

        components: int = 2  # of the projection (code)
        pool: Literal["max", "mean"] = "max"  # what a map's positions become (code: max, avg)
        batches: int = 8  # training batches to look at (ours; code: all images)

        def __post_init__(self):
            require_ranges(self, components="[1, inf)", batches="[1, inf)")

    @torch.no_grad()
    def scores(self, ctx):
        """VIP of all units together, in float64."""
        pool, features, labels = torch.amax if self.config.pool == "max" else torch.mean, [], []
        for x, y in ctx.batches(limit=self.config.batches):
            with ctx.probe(), ctx.activations() as found:
                ctx.forward(x)
            features.append(ctx.flat({name: pool(a[..., None].double().flatten(2), 2) for name, a in found.items()}))
            labels.append(y)
        Y = F.one_hot(torch.cat(labels)).double()
        return ctx.split(vip(torch.cat(features), Y, self.config.components).float())
