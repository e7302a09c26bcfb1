"""What a run is and where it is, as its method reads it; nothing of it can be set."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import METHOD, RunFailed
from bench.pruning.latency_choice import LatencyChoice
from bench.pruning.sites import Sites
from bench.spec.recipe import Recipe
from bench.spec.spec import Budget
from bench.training.masked_model import MaskedModel
from bench.training.run_state import RunState


class RunView:
    """The part of a context that is only read (see :class:`bench.training.context.Context`)."""

    def __init__(self, model: MaskedModel, recipe: Recipe, budget: Budget | None, seed: int) -> None:
        self._model, self._recipe, self._budget, self._seed = model, recipe, budget, seed
        self._now = RunState()
        self._latency: LatencyChoice | None = None  # what meets a budget of milliseconds
        self._rng = torch.Generator(model.device).manual_seed(seed)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "masks" and not name.startswith("_"):
            raise AttributeError(f"ctx.{name} cannot be set: of a context only ctx.masks can be assigned")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a context has no '{name}': docs/add_a_method.md lists what it offers")

    @property
    def sites(self) -> Sites:
        """The prunable widths, by name."""
        return self._model.sites

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Dotted name -> parameter of the network as it is now; a hook that may change weights writes them in place."""
        return dict(self._model.network.named_parameters())

    recipe = property(attrgetter("_recipe"), doc="Epochs, rates, batch size.")
    device = property(attrgetter("_model.device"), doc="Where tensors live.")
    rng = property(attrgetter("_rng"), doc="The method's own generator, seeded by the run and kept in checkpoints.")
    budget = property(lambda self: self._budget or Budget(), doc="What may be kept; everything in the native track.")
    native = property(lambda self: self._budget is None, doc="Whether the method chooses its own sparsity.")
    phase = property(attrgetter("_now.phase"), doc="Index of the phase (or PRUNE) in the plan.")
    epoch = property(attrgetter("_now.epoch"), doc="Index of the epoch in the phase.")
    step = property(attrgetter("_now.step"), doc="Index of the step in the epoch.")
    progress = property(
        attrgetter("_now.progress"), doc="Epochs of the phase that are done, with the present fraction."
    )
    rate = property(attrgetter("_now.rate"), doc="Learning rate of the present step; 0 outside of training.")
    x = property(attrgetter("_now.x"), doc="Images of the current batch, ``[B, C, H, W]``, normalised.")
    tracked = property(attrgetter("_model.tracked"), doc="Site -> running statistic ``[n_units]`` (see :meth:`track`).")

    units_left = property(attrgetter("_model.units_left"), doc="Share of the dense units that are there, not masked.")

    shape = property(attrgetter("_model.costs.shape"), doc="Of one image, ``(C, H, W)``.")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch that scores are of: cross-entropy, or what the user of ``bench.prune`` gave."""
        given = self._model.loss
        return given(logits, targets) if given else F.cross_entropy(logits, targets)

    @property
    def y(self) -> Tensor:
        """Labels of the current batch, ``[B]``; raises RunFailed where the method declares ``labels = False``."""
        if not self._now.labelled:
            raise RunFailed("ctx.y: the method declares labels = False", blame=METHOD)
        return self._now.y

    @property
    def curve(self) -> list[dict[str, Any]]:
        """One entry for every epoch so far, of all phases: ``phase``, ``epoch``, ``train_loss``, ``val_top1``,
        ``val_loss``, ``units_left`` and what was logged; a copy."""
        return [dict(entry) for entry in self._now.curve]
