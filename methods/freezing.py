"""Faster training: the first layers are frozen, and the others learn from their kept outputs. Nothing is pruned.

The scores and the schedule of Learn & Drop are not public: equations are ours (docs/methods/learn_and_drop.md).
"""

from dataclasses import dataclass

import torch

from bench.api import Method, Phase, method, require_ranges
from methods.papers import CRUCIATA2024

EPS = 1e-12


class Freezing(Method):
    """Trains for as many epochs as every method, from the initial weights, and keeps every unit."""

    prunes = False

    def plan(self, ctx):
        """Both parts of the recipe."""
        return (Phase(ctx.recipe.train.epochs), Phase(ctx.recipe.finetune.epochs, "finetune"))


@method("learn_and_drop", paper=CRUCIATA2024)
class LearnAndDrop(Freezing):
    """Freeze the first layers once their weights hardly change from epoch to epoch; train on from kept outputs."""

    @dataclass(frozen=True)
    class Config:
        """Options."""

        tau: float = 0.01  # relative change of an epoch below which a layer is calm (ours)
        patience: int = 2  # epochs in a row that a layer is calm before it is frozen (ours)
        momentum: float = 0.5  # weight of the past in the mean of changes (ours)
        cache: int = 1  # views of each image whose outputs are kept; 0 runs the frozen layers (ours)

        def __post_init__(self):
            require_ranges(self, tau="[0, inf)", patience="[1, inf)", momentum="[0, 1)", cache="[0, inf)")

    def prepare(self, ctx):
        """The weights of an epoch ago; of each layer the mean change, none yet, and for how long it has been calm."""
        weights = self.weights(ctx)
        self.register_buffer("last", torch.cat(weights))
        self.register_buffer("change", torch.full((len(weights),), -1.0, device=ctx.device))
        self.register_buffer("calm", torch.zeros(len(weights), device=ctx.device))

    def weights(self, ctx):
        """Of each layer, in the order in which they run, flattened."""
        return [layer.matrix().detach().flatten() for layer in ctx.layers.values()]

    def on_epoch_end(self, ctx):
        """Freeze the longest row of layers from the first one on that have been calm for long enough."""
        now, c = self.weights(ctx), self.config
        before = self.last.split([len(w) for w in now])
        change = torch.stack([(w - b).norm() / (b.norm() + EPS) for w, b in zip(now, before, strict=True)])
        self.change = torch.where(self.change < 0, change, self.change.lerp(change, 1 - c.momentum))
        self.calm = (self.calm + 1) * (self.change < c.tau)
        self.last = torch.cat(now)
        done = int((self.calm >= c.patience).cumprod(dim=0).sum())
        ctx.freeze(list(ctx.layers)[:done], cache=c.cache)
        ctx.log(calm=done)


@method("freeze_schedule")
class FreezeSchedule(Freezing):
    """Freeze the first layers by the clock, the later ones later: what the scores of learn_and_drop have to beat."""

    @dataclass(frozen=True)
    class Config:
        """Options."""

        start: float = 0.5  # share of the training epochs before the first layer is frozen (ours)
        cache: int = 1  # views of each image whose outputs are kept; 0 runs the frozen layers (ours)

        def __post_init__(self):
            require_ranges(self, start="[0, 1)", cache="[0, inf)")

    def on_epoch_end(self, ctx):
        """Layers ``(t - start) / (1 - start)`` of all, ``t`` the share of the training epochs that are done."""
        done = 1.0 if ctx.phase else (ctx.epoch + 1) / ctx.recipe.train.epochs
        share = (done - self.config.start) / (1 - self.config.start)
        ctx.freeze(list(ctx.layers)[: int(max(0.0, share) * len(ctx.layers))], cache=self.config.cache)
