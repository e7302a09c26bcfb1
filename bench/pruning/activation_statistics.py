"""Statistics of activations, one number a unit, by name; accumulated in float32 whatever precision they come in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mean(values: Tensor) -> Tensor:
    """Mean over all but the units' axis, ``[B, n_units, ...] -> float32 [n_units]``."""
    others = [0, *range(2, values.dim())]
    return values.sum(others, dtype=torch.float32) / (values.numel() / values.shape[1])


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "act_mean": lambda a: mean(a.abs()),
    "act_std": lambda a: a.float().transpose(0, 1).flatten(1).std(dim=1),
    "apoz": lambda a: mean(a != 0),
}
"""Name -> function of activations ``[B, n_units, ...]`` to ``[n_units]``: mean absolute value, deviation, share of
values that are not zero (1 - APoZ of Hu et al. 2016, eq. 1). Larger is more active."""
