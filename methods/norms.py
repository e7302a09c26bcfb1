"""Importances in a line or two: of the weights, of the batch norm, of activations, of gradients."""

import torch

from bench.api import STATISTICS, importance
from methods.papers import BARTOLDSON2020, HE2019, HU2016, LI2017, LIU2017, MOLCHANOV2019


@importance("l1_norm", paper=LI2017)
def l1_norm(site):
    """Sum of absolute weights of each unit (Li et al. 2017, section 3.1), ranked within its layer."""
    return site.rows().abs().sum(dim=1)


@importance("l2_norm", paper=LI2017)
def l2_norm(site):
    """Euclidean norm of each unit's weights (the alternative of Li et al. 2017, section 4.4)."""
    return site.rows().norm(dim=1)


@importance("fpgm", paper=HE2019)
def fpgm(site):
    """Distance to the geometric median: sum of the distances to all other units (He et al. 2019, eq. 4)."""
    exact = "donot_use_mm_for_euclid_dist"  # the other way loses the distance of filters that are alike
    return torch.cdist(site.rows(), site.rows(), compute_mode=exact).sum(dim=1)


@importance("bn_scale", paper=LIU2017, ranking="global", needs="scaled_norm")
def bn_scale(site):
    """Absolute scale of each unit's batch norm (Liu et al. 2017), compared over all sites."""
    return site.scale()


@importance("ebn", paper=BARTOLDSON2020, needs="scaled_norm")
def ebn(site):
    """Expected output of each unit behind batch norm and ReLU (Bartoldson et al. 2020), summed over its norms."""
    return sum(rectified(n.beta, n.gamma).reshape(site.n_units, -1).sum(dim=1) for n in site.affine())


def rectified(beta, gamma):
    """Mean of ``max(0, x)`` of a normal ``x`` of mean ``beta`` and deviation ``|gamma|``."""
    size = gamma.abs().clamp(min=1e-12)
    density = torch.exp(-(beta / size).square() / 2) / (2 * torch.pi) ** 0.5
    return beta * torch.special.ndtr(beta / size) + size * density


@importance("taylor", paper=MOLCHANOV2019, ranking="global", needs="gate_gradients")
def taylor(site, gradients):
    """Squared derivative of the batch's loss by a gate on each unit (Molchanov et al. 2019, eq. 8)."""
    return gradients.mean(dim=0).square()


@importance("act_mean", needs="activations")
def act_mean(site, activations):
    """Mean absolute activation of each unit over the training set: DropNet's measure, in one shot."""
    return STATISTICS["act_mean"](activations)


@importance("apoz", paper=HU2016, needs="activations")
def apoz(site, activations):
    """Share of a unit's activations that are not zero: 1 - APoZ (Hu et al. 2016, eq. 1)."""
    return STATISTICS["apoz"](activations)
