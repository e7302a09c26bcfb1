"""Calls of a method's hooks, and the seconds that they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from bench.errors import METHOD, RunFailed
from bench.training.context import Context


@contextmanager
def clock(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``seconds[what]``."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[what] += time.perf_counter() - began


class HookCalls:
    """Calls hooks of the method of one run.

    Args:
        ctx: what the hooks get.
        seconds: where their seconds are added, under ``method``.
    """

    def __init__(self, ctx: Context, seconds: dict[str, float]) -> None:
        self.ctx, self.seconds = ctx, seconds

    def timed(self, hook: str, functions: Sequence[Callable[..., Any]], *given: Any) -> list[Any]:
        """What ``functions``, implementations of ``hook``, return; they get the context and what is ``given``."""
        if not functions:
            return []
        with clock(self.seconds, "method"), self.ctx._now.during(hook):
            return [function(self.ctx, *given) for function in functions]


def scalar(penalty: Any) -> Tensor | float:
    """``penalty`` as it is; raises RunFailed where it cannot be added to a loss."""
    if not isinstance(penalty, Tensor | float | int) or (isinstance(penalty, Tensor) and penalty.numel() != 1):
        given = list(penalty.shape) if isinstance(penalty, Tensor) else type(penalty).__name__
        raise RunFailed(f"the method's penalty returned {given}, not a scalar", blame=METHOD)
    return penalty


def objective(loss: Any) -> Tensor:
    """``loss``, what an objective returned; raises RunFailed where it is no scalar with a gradient."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        given = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        why = "without a gradient" if isinstance(loss, Tensor) and loss.numel() == 1 else "not a scalar"
        raise RunFailed(f"the method's objective returned {given}, {why}", blame=METHOD)
    return loss
