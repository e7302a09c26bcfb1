"""The optimizer of a phase, its momenta and its learning rate."""

from __future__ import annotations

import math
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


def schedule(stage: Stage, progress: float) -> float:
    """Factor on the peak learning rate at ``progress`` in [0, 1) of a :class:`bench.spec.recipe.Stage`."""
    if stage.schedule == "onecycle":
        if progress < 0.3:
            return _cosine(1 / 25, 1, progress / 0.3)
        return _cosine(1, 1 / 25e4, (progress - 0.3) / 0.7)
    if progress < stage.warmup:
        return progress / stage.warmup
    rest = (progress - stage.warmup) / (1 - stage.warmup) if stage.warmup < 1 else 0.0
    return {
        "constant": 1.0,
        "linear": 1 - rest,
        "step": 0.1 ** sum(rest >= share for share in stage.drops),
        "cosine": _cosine(1, 0, rest),
    }[stage.schedule]


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
