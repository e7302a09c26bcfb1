"""Numbers of the units that go to exactly zero under an l1 norm: FISTA (Beck and Teboulle 2009), not negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fista(
    mask: Tensor, previous: Tensor, gradient: Tensor, alpha: float, rate: float, lam: float
) -> tuple[Tensor, float]:
    """A step of masks that stay non-negative: their next values, and the next ``alpha``.

    ``y = m + (alpha - 1) / alpha' (m - m_previous)``, then ``max(0, y - rate (gradient + lam))``, which is the
    proximal step of ``lam |m|`` and the projection at once. The gradient is taken at ``m``, not at ``y``.
    """
    following = (1 + math.sqrt(1 + 4 * alpha**2)) / 2
    y = mask + (alpha - 1) / following * (mask - previous)
    return (y - rate * (gradient + lam)).clamp(min=0), following


@torch.no_grad()
def fista_step(masks: dict[str, Tensor], previous: dict[str, Tensor], alpha: Tensor, rate: float, lam: float) -> None:
    """A step of all masks down their gradients, in place; see :func:`fista`.

    Args:
        masks: site -> ``[n_units]`` with a ``grad``, as ``ctx.per_unit(name, trainable=True)`` gives them.
        previous: site -> their values before the last step, also of ``ctx.per_unit``; any before the first.
        alpha: a number, 1 before the first step.
        rate: of the step.
        lam: weight of the l1 norm.
    """
    following = alpha.item()
    for name, mask in masks.items():
        if mask.grad is None:
            raise ValueError(f"fista_step: the numbers of site {name} have no gradient: gate with them")
        new, following = fista(mask, previous[name], mask.grad, alpha.item(), rate, lam)
        previous[name], masks[name] = mask.detach(), new
    alpha.fill_(following)
