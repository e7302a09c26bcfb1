"""Generative adversarial learning of soft masks (GAL), and the same without its adversary.

Equations are those of the authors' code (github.com/ShaohuiLin/GAL) with its defects named; docs/methods/gal.md lists
what is whose.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from bench.api import Method, fista_step, method, require_ranges, search_plan
from methods.papers import LIN2019


@method("softmask_fista", paper=LIN2019)
class SoftMaskFista(Method):
    """Soft masks learned by FISTA so that the logits stay those of the base, without labels; the smallest go."""

    starts_from = "base"
    ranking = "global"  # as one threshold for all masks is
    native = True
    labels = False
    kinds = ("conv", "linear", "block")
    needs = ("foldable",)  # weights take the masks in

    @dataclass(frozen=True)
    class Config:
        """Options."""

        mu: float | None = None  # weight of the squared difference of logits; none: 0.1, for blocks 1 (code)
        lam: float | None = None  # weight of the l1 norm of the masks; none: 1e-3, for blocks 0.6 (code)
        mask_every: int = 20  # steps of an epoch between two steps of the masks (ours; code: 200)
        mask_init: Literal["ones", "normal"] = "ones"  # first masks: 1, or drawn from N(0, 1) (ours; code: normal)
        search: float = 0.5  # share of the fine-tuning epochs that learns the masks (ours)

        def __post_init__(self):
            require_ranges(self, mu="[0, inf)", lam="[0, inf)", mask_every="[1, inf)", search="(0, 1)")

    def plan(self, ctx):
        """The first part of the fine-tuning learns masks, the rest trains what is left by labels."""
        return search_plan(ctx.recipe.finetune.epochs, self.config.search)

    def prepare(self, ctx):
        """Masks and what FISTA keeps of them; weights of the code, for ResNet-56 and for VGG-16."""
        first = ctx.draw(normal=True) if self.config.mask_init == "normal" else 1.0
        self.mask, self.before = ctx.per_unit("mask", first, trainable=True), ctx.per_unit("mask before", first)
        self.register_buffer("alpha", torch.ones(()))
        usual = (1.0, 0.6) if any(site.blocks for site in ctx.sites.values()) else (0.1, 1e-3)
        self.mu, self.lam = (d if c is None else c for c, d in zip((self.config.mu, self.config.lam), usual))

    def on_batch_start(self, ctx):
        """Units are read times their masks."""
        ctx.gate(self.mask)

    def objective(self, ctx, logits):
        """``mu`` times the mean squared difference to the base's logits."""
        return self.mu * mse_loss(logits, ctx.teacher())

    def on_step_end(self, ctx):
        """In the first step of an epoch and every ``mask_every``: one of the masks, at the rate of the weights."""
        if ctx.step % self.config.mask_every == 0:
            fista_step(self.mask, self.before, self.alpha, ctx.rate, self.lam)
            ctx.log(zero=(ctx.flat(self.mask) <= 0).sum())

    def on_phase_end(self, ctx):
        """The weights that read the units, and norms at the end of blocks, take the masks in: the same function."""
        ctx.sites.fold_(self.scores(ctx))

    def scores(self, ctx):
        """The masks."""
        return {name: mask.detach() for name, mask in self.mask.items()}

    def select(self, ctx, budget):
        """The largest within the budget; in the native track those above zero, at least one of each site."""
        return ctx.rank(self.scores(ctx), self.ranking, above=0.0)


@method("gal", paper=LIN2019)
class Gal(SoftMaskFista):
    """Soft masks as in softmask_fista, and a critic that learns to separate the logits of masked network and base."""

    @dataclass(frozen=True)
    class Config(SoftMaskFista.Config):
        """Options."""

        critic: Literal["relu", "affine"] = "relu"  # what is between its layers (ours; code: affine, nothing)
        critic_lr: float = 0.01  # its learning rate, constant (code: 0.01, divided by 10 every 30 epochs)

        def __post_init__(self):
            super().__post_init__()
            require_ranges(self, critic_lr="(0, inf)")

    def prepare(self, ctx):
        """The critic has layers of classes-128-256-128-1 (code)."""
        super().prepare(ctx)
        sizes = zip((len(ctx.head.matrix()), 128, 256, 128), (128, 256, 128, 1), strict=True)
        between = nn.ReLU if self.config.critic == "relu" else nn.Identity
        self.critic = ctx.own(
            "critic",
            lambda: nn.Sequential(*(layer for io in sizes for layer in (nn.Linear(*io), between())))[:-1],
            lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=2e-4),
            self.config.critic_lr,
        )

    def objective(self, ctx, logits):
        """One step of the critic; then ``mu MSE + BCE(D(f_g), 1)``.

        The critic's loss is ``BCE(D(f_b), 1) + BCE(D(f_g), 0) + BCE(D(f_g), 1)``; the last term holds it back (code).
        """
        base, student = self.critic(ctx.teacher()), self.critic(logits.detach())
        ctx.minimize(self.verdict(base, 1.0) + self.verdict(student, 0.0) + self.verdict(student, 1.0), "critic")
        return super().objective(ctx, logits) + self.verdict(self.critic(logits), 1.0)

    def verdict(self, output, real):
        """Cross-entropy of the critic's outputs against ``real``, 1 or 0."""
        return binary_cross_entropy_with_logits(output, torch.full_like(output, real))
