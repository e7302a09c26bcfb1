"""The plan of a method: phases of training, and where the network is pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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
