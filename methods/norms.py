"""Importances that read the weights."""

from bench.api import importance
from methods.papers import LI2017


@importance("l1_norm", paper=LI2017)
def l1_norm(site):
    """Sum of absolute weights of each unit (Li et al. 2017, section 3.1), ranked within its layer."""
    return site.rows().abs().sum(dim=1)
