"""The plan of a method: phases of training, and where the network is pruned."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final

from bench.errors import METHOD, RunFailed


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes:
        epochs: how many.
        part: the recipe's table that gives rate and schedule, ``train`` or ``finetune``.
        rewind: before it starts, go back to this snapshot's weights (``init`` always exists), or ``fresh`` for
            newly drawn ones; None: continue with the present ones. Every phase has a new optimizer.
        rate: factor on the recipe's learning rate, above 0.
    """

    epochs: int
    part: str = "train"
    rewind: str | None = None
    rate: float = 1.0


@dataclass(frozen=True)
class Prune:
    """The step of a plan at which masks are chosen, the method is finalized, and the network is sliced."""


PRUNE: Final = Prune()
Plan = tuple[Phase | Prune, ...]


def search_plan(epochs: int, share: float) -> Plan:
    """A ``share`` of the ``epochs`` of fine-tuning, rounded, before the prune, the rest after it."""
    search = round(share * epochs)
    return (Phase(search, "finetune"), PRUNE, Phase(epochs - search, "finetune"))


def described(phase: Phase) -> dict[str, Any]:
    """A phase as a record has it: a rate of 1 is left out."""
    return {key: value for key, value in dataclasses.asdict(phase).items() if (key, value) != ("rate", 1.0)}


def check_plan(plan: Any, prunes: bool) -> Plan:
    """``plan`` as it is; raises RunFailed unless it is a tuple of phases with one PRUNE (none if nothing is pruned)."""
    if not isinstance(plan, tuple) or not all(isinstance(step, Phase | Prune) for step in plan):
        raise RunFailed("the method's plan is not a tuple of Phase and PRUNE", blame=METHOD)
    for step in plan:
        if isinstance(step, Phase) and not 0 < step.rate < math.inf:
            raise RunFailed(f"the method's plan has a Phase of rate {step.rate}: above 0", blame=METHOD)
    found, wanted = sum(isinstance(step, Prune) for step in plan), int(prunes)
    if found != wanted:
        why = f"the method's plan has {found} PRUNE, it must have {wanted} (its prunes is {prunes})"
        raise RunFailed(why, blame=METHOD)
    return plan
