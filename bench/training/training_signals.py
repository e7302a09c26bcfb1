"""What a method trains by besides labels: logits of the step, teachers, modules of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.training import own_modules
from bench.training.guard import STEP_HOOKS
from bench.training.teacher import Teachers
from bench.training.unit_selection import UnitSelection

WITH_LOGITS = ("objective", "penalty", "on_backward_end")
"""Hooks in which a step's forward is done and its graph is there."""


class TrainingSignals(UnitSelection):
    """The part of a context about losses (see :class:`bench.training.context.Context`)."""

    _teachers: Teachers

    @property
    def logits(self) -> Tensor:
        """Logits ``[B, classes]``, float32, of this step's forward, in its graph; RunFailed where there are none."""
        if self._now.logits is None or self._now.hook not in WITH_LOGITS:
            where = self._now.hook or "no hook"
            raise RunFailed(f"ctx.logits in {where}: they are there in {', '.join(WITH_LOGITS)} only", blame=METHOD)
        return self._now.logits

    def teacher(self, x: Tensor | None = None, tag: str = "base") -> Tensor:
        """Logits ``[B, classes]``, float32, of a snapshot as it was taken: its own widths, no gates, eval mode.

        No gradient. A batch is passed once, however often it is asked for, and costs a forward of the teacher.

        Args:
            x: normalised images ``[B, C, H, W]``; None for the current batch.
            tag: ``base`` or a snapshot of the method's own.

        Raises:
            RunFailed: no such snapshot.
        """
        return self._teachers.logits(self.x if x is None else x, tag)

    def own(self, name: str, factory: Callable[[], nn.Module], optimizer: own_modules.Makes, lr: float) -> nn.Module:
        """In ``prepare``: a module of the method's own that only :meth:`minimize` trains, on ``device``.

        Its weights depend on the run's seed; checkpoints keep it and its optimizer. Its forwards are charged, three
        times where the output requires a gradient.

        Args:
            name: for :meth:`minimize`.
            factory: makes the module.
            optimizer: such as ``torch.optim.SGD``, or a ``functools.partial`` of it; called with parameters and ``lr``.
            lr: its learning rate.
        """
        self._now.require_hook("own", ("prepare",))
        model = self._model
        module = own_modules.made(factory, self._seed, name, model.device, model.network, model.ledger)
        model.own.add(name, module, optimizer(module.parameters(), lr=lr))
        return module

    def minimize(self, loss: Tensor, name: str) -> None:
        """In a hook of a step: one step of the module ``name`` alone down the gradient of ``loss`` (a scalar)."""
        if self._now.hook not in STEP_HOOKS:
            where = self._now.hook or "no hook"
            raise RunFailed(f"ctx.minimize in {where}: only {', '.join(STEP_HOOKS)} may do that", blame=METHOD)
        with torch.enable_grad():
            self._model.own.minimize(loss, name)
