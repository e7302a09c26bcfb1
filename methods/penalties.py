"""Regularizers: a term of the loss that makes units small while the network trains."""

from bench.api import regularizer
from methods.papers import WEN2016


@regularizer("group_lasso", paper=WEN2016, strength=1e-4)
def group_lasso(site, strength):
    """Sum of the l2 norms of the units' weights (Wen et al. 2016, eq. 2, filter-wise), then pruned by that norm."""
    return strength * site.rows().norm(dim=1).sum()
