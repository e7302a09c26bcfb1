"""What methods are composed with when compositions are checked: the least regularizer and the least importance."""

from __future__ import annotations

from torch import Tensor

from bench.api import Site, importance, regularizer


@importance("check_importance")
def check_importance(site: Site) -> Tensor:
    """l1 norm, for checking compositions."""
    return site.rows().abs().sum(dim=1)


@regularizer("check_penalty")
def check_penalty(site: Site) -> Tensor:
    """Squared weights, for checking compositions."""
    return 1e-4 * site.rows().square().sum()
