"""Learning rate schedules."""

from __future__ import annotations

import math

from bench.spec.recipe import Stage


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
