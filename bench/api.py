"""The method contract. A method file imports this module and torch, nothing else.

The least plugin is a function of a site::

    @importance("l1_norm", paper=LI2017)
    def l1_norm(site):                       # -> float [n_units], larger is more worth keeping
        return site.rows().abs().sum(dim=1)

    @regularizer("group_lasso", paper=WEN2016, strength=1e-4)
    def group_lasso(site, strength):         # -> scalar added to the loss
        return strength * site.rows().norm(dim=1).sum()

Anything with state is a class: a :class:`Method` whose buffers are its checkpoint, with any of its hooks.
"""

from bench.data.registration import dataset
from bench.models.build import architecture
from bench.models.layers import Attention
from bench.pruning.activation_statistics import STATISTICS
from bench.pruning.masks import Masks, Scores
from bench.pruning.own_units import OwnUnits
from bench.pruning.readings import unit_squares
from bench.pruning.rounding import whole_units
from bench.pruning.sites import Site, Sites
from bench.spec.entries import Paper
from bench.spec.option_ranges import require_ranges
from bench.spec.spec import Budget
from bench.training.context import Context
from bench.training.fista import fista_step
from bench.training.method import Method
from bench.training.plan import PRUNE, Phase, Plan, search_plan
from bench.training.registration import importance, method, regularizer
from bench.training.requirements import lacks_scaled_norm

__all__ = [
    "PRUNE",
    "STATISTICS",
    "Attention",
    "Budget",
    "Context",
    "Masks",
    "Method",
    "OwnUnits",
    "Paper",
    "Phase",
    "Plan",
    "Scores",
    "Site",
    "Sites",
    "architecture",
    "dataset",
    "fista_step",
    "importance",
    "lacks_scaled_norm",
    "method",
    "regularizer",
    "require_ranges",
    "search_plan",
    "unit_squares",
    "whole_units",
]
