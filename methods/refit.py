"""Compensations: parts that change what reads the units that go, in closed form, so that no epoch need follow the cut.

Each is composed with whatever ranks the units (``l1_norm+refit_ridge``); see docs/methods/refit.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from bench.api import Method, method, require_ranges


class Refit(Method):
    """Fits the readers of each site to their responses in the dense network; ``solve`` says how."""

    starts_from = "base"

    @dataclass(frozen=True)
    class Config:
        """Options."""

        images: int = 512  # training images to look at, unlabelled (ours)
        patches: int = 4000  # rows of a layer, at most (ours)
        inputs: Literal["now", "base"] = "now"  # of the network as compensated so far, or of the dense one (ours)

        def __post_init__(self):
            require_ranges(self, images="[1, inf)", patches="[1, inf)")

    def compensate(self, ctx, masks):
        """One site after the other, in the order in which they run."""
        c = self.config
        for site in dict.fromkeys(layer.makes for layer in ctx.layers.values() if layer.makes):
            ctx.refit(site, masks[site], self.solve, c.inputs, c.images, c.patches)


@method("refit_mean")
class RefitMean(Refit):
    """Shift what reads the removed units by the mean of what they gave it."""

    compensation = "moments"

    def solve(self, x, missing, weight):
        """``shift = mean over rows of what is missing``."""
        return torch.cat([torch.zeros_like(weight), missing.mean(dim=0)[:, None]], dim=1)


@method("refit_variance")
class RefitVariance(Refit):
    """Scale and shift each output of what reads the removed units to its former deviation and mean."""

    compensation = "moments"

    def solve(self, x, missing, weight):
        """``s = std(Y) / std(Y_hat)`` in [0.1, 10], ``W <- s W``, and a shift to equal means."""
        present = x[:, :-1] @ weight.T
        wanted = present + missing
        s = (wanted.std(dim=0) / present.std(dim=0)).nan_to_num(1.0, posinf=10.0).clamp(0.1, 10)
        shift = wanted.mean(dim=0) - s * present.mean(dim=0)
        return torch.cat([(s - 1)[:, None] * weight, shift[:, None]], dim=1)


def ridge(x, missing, k, strength):
    """``(X^T X + D)^-1 X^T R`` transposed, D: strength times the mean diagonal of the first ``k`` columns, else 0."""
    gram, decay = x.T @ x, torch.zeros_like(x[0])
    decay[:k] = strength * gram.diagonal()[:k].mean()
    factor, failed = torch.linalg.cholesky_ex(gram + decay.diag())
    if failed or strength < 1e-9:  # columns that depend on each other
        return (torch.linalg.pinv(gram + decay.diag(), hermitian=True) @ (x.T @ missing)).T
    return torch.cholesky_solve(x.T @ missing, factor).T


@method("refit_ridge")
class RefitRidge(Refit):
    """Ridge regression of what is missing on the inputs that stay, centred at the present weights."""

    compensation = "weights"

    @dataclass(frozen=True)
    class Config(Refit.Config):
        """Options."""

        ridge: float = 1e-3  # share of the inputs' mean square that pulls the change to zero (ours)

        def __post_init__(self):
            super().__post_init__()
            require_ranges(self, ridge="[0, inf)")

    def solve(self, x, missing, weight):
        """See :func:`ridge`; the column of ones is free."""
        return ridge(x, missing, weight.shape[1], self.config.ridge)


@method("refit_bn")
class RefitBN(Method):
    """Estimate the statistics of batch norm again after the cut, as the plain mean over training batches."""

    starts_from = "base"
    kinds = ("conv", "linear", "block")

    @dataclass(frozen=True)
    class Config:
        """Options."""

        batches: int = 20  # training batches (ours)

        def __post_init__(self):
            require_ranges(self, batches="[1, inf)")

    reestimates = property(lambda self: self.config.batches)
