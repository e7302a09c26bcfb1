"""Where a run is: its training writes it, its method reads it through the context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.errors import RunFailed


class Watches(Protocol):
    """What :class:`bench.training.guard.Guard` is asked to do from here and from the context.

    Attributes:
        writers: hooks in which weights may change.
    """

    writers: tuple[str, ...]

    def watching(self, hook: str) -> AbstractContextManager[None]:
        """Within the block the method's ``hook`` runs."""

    def validation(self, x: Tensor) -> None:
        """The method is given the validation images ``x``."""


@dataclass
class RunState:
    """Where a run is: its training writes this, its method reads it through the context.

    Attributes:
        phase, epoch, step, progress, rate, x, y, curve: see :class:`Context`.
        logits: of the step's forward, float32, while its graph is there; None otherwise.
        labelled: whether the method may read labels.
        logged: numbers for the curve's next entry.
        stopping: what is to end after this epoch, ``phase`` or ``search``; None for nothing.
        hooks: names of the method's hooks that run now, the outermost first.
        pruned: whether the plan's PRUNE is done.
        tuned: whether a network that units were cut out of was trained before the prune.
        prune_result: what the prune left for the record.
        guard: watches what the method does; None where nothing is held.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    progress: float = 0.0
    rate: float = 0.0
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    y: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor | None = None
    labelled: bool = True
    curve: list[dict[str, Any]] = field(default_factory=list)
    logged: dict[str, float] = field(default_factory=dict)
    stopping: str | None = None
    guard: Watches | None = None
    hooks: tuple[str, ...] = ()
    pruned: bool = False
    tuned: bool = False
    prune_result: dict[str, Any] | None = None

    @property
    def hook(self) -> str:
        """Name of the innermost hook that runs now; empty outside of hooks."""
        return self.hooks[-1] if self.hooks else ""

    @contextmanager
    def during(self, hook: str) -> Iterator[None]:
        """Within the block the method's ``hook`` runs: what it may not do is refused."""
        before, self.hooks = self.hooks, (*self.hooks, hook)
        try:
            with self.guard.watching(hook) if self.guard and not before else nullcontext():
                yield
        finally:
            self.hooks = before

    def require_hook(self, call: str, hooks: tuple[str, ...] = ()) -> None:
        """Raise RunFailed in a method's hook after the prune, or one that is not of ``hooks`` (empty: all)."""
        if self.hook and self.pruned:
            raise RunFailed(f"ctx.{call} in {self.hook} after the prune: what is kept is decided")
        if self.hook and hooks and self.hook not in hooks:
            raise RunFailed(f"ctx.{call} in {self.hook}: only {', '.join(hooks)} may do that")
