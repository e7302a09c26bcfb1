"""The optimizer of a phase and its momenta."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from bench.spec.recipe import Recipe, Stage


def make_optimizer(parameters: Iterable[nn.Parameter], stage: Stage, recipe: Recipe) -> torch.optim.SGD:
    """Fused SGD with the recipe's settings and momenta of zero; a parameter without gradient stays as it is.

    Fused SGD fails where some parameters with a gradient have a momentum and others have none yet, such as those of a
    layer that the first batches left out. The first step from a momentum of zero is that from none, to the bit.
    Frozen parameters are included: what is frozen may change within a phase, and a resumed phase has the same order.
    """
    optimizer = torch.optim.SGD(
        [p for p in parameters if p.requires_grad or p.is_floating_point()],  # of others fused SGD makes an error
        lr=stage.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if recipe.momentum:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Set every momentum to zero."""
    for state in optimizer.state.values():
        for moment in state.values():
            if isinstance(moment, torch.Tensor):
                moment.zero_()
