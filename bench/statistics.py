"""Statistics of activations, one number a unit, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def values(activations: Tensor) -> Tensor:
    """All values of each unit, ``[B, n_units, ...] -> [n_units, B * positions]``."""
    return activations.transpose(0, 1).flatten(1)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "act_mean": lambda a: values(a).abs().mean(dim=1),
    "act_std": lambda a: values(a).std(dim=1),
    "apoz": lambda a: (values(a) != 0).float().mean(dim=1),
}
"""Name -> function of activations ``[B, n_units, ...]`` to ``[n_units]``: mean absolute value, deviation, share of
values that are not zero (1 - APoZ of Hu et al. 2016, eq. 1). Larger is more active."""
