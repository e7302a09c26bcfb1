"""Structured sparsity learning (SSL): group lasso on the filters, channels and residual blocks of a trained network."""

from dataclasses import dataclass

import torch

from bench.api import PRUNE, Method, Phase, method, require_ranges
from methods.papers import WEN2016


@method("ssl", paper=WEN2016)
class StructuredSparsity(Method):
    """SSL: group lasso on filters, channels and blocks in the second part of the training, then the weakest go."""

    kinds = ("conv", "linear", "block")

    @dataclass(frozen=True)
    class Config:
        """Options."""

        filters: float = 3e-3  # weight of the norms of what makes each unit (code: CIFAR ConvNet)
        channels: float = 3e-3  # weight of the norms of what reads each unit (code: CIFAR ConvNet)
        depth: float = 7e-3  # weight of the norms of residual blocks (code: ResNet)
        proximal: bool = True  # steps that reach zero; false: gradients of the norms, as in the code (ours)
        share: float = 0.5  # of the training epochs that have the norms (ours; code: half as many again)
        rate: float = 1.0  # factor on the recipe's learning rate in these epochs (code: 1, for AlexNet 0.1)

        def __post_init__(self):
            require_ranges(self, filters="[0, inf)", channels="[0, inf)", depth="[0, inf)")
            require_ranges(self, share="[0, 1]", rate="(0, 1]")

    def plan(self, ctx):
        """Train, train with the norms, prune, fine-tune."""
        with_norms = round(self.config.share * ctx.recipe.train.epochs)
        plain = Phase(ctx.recipe.train.epochs - with_norms)
        return (plain, Phase(with_norms, rate=self.config.rate), PRUNE, Phase(ctx.recipe.finetune.epochs, "finetune"))

    def makes(self, site):
        """Norm of the scales of each unit's batch norms, of the weights that make it where there are none."""
        if site.gamma() is None:
            return site.group_norms("makes")
        squares = sum(norm.gamma.square().reshape(site.n_units, -1).sum(dim=1) for norm in site.affine())
        return (squares + 1e-16).sqrt()

    def groups(self, ctx):
        """Of each site the groups that make and that read, in the second phase: weight, norms, what a step scales."""
        for site in ctx.sites.values() if ctx.phase == 1 else ():
            part = "weight" if site.gamma() is None else "gamma"
            yield self.config.depth if site.blocks else self.config.filters, self.makes(site), (site, "makes", part)
            yield self.config.channels, site.group_norms("reads"), (site, "reads", part)

    def on_backward_end(self, ctx):
        """Without proximal steps: add the gradient of ``weight * sum of norms``."""
        terms = [] if self.config.proximal else [weight * norms.sum() for weight, norms, _ in self.groups(ctx)]
        if terms:
            sum(terms).backward()

    @torch.no_grad()
    def on_step_end(self, ctx):
        """Proximal steps, one kind of group after the other: ``w <- w max(0, 1 - rate * weight / norm)``.

        The rate is what momentum makes of the recipe's, since the loss goes through the optimizer.
        """
        rate = ctx.rate / (1 - ctx.recipe.momentum)
        for weight, norms, (site, side, part) in self.groups(ctx) if self.config.proximal else ():
            site.scale_((1 - rate * weight / norms).clamp(min=0), side, (part,), strict=False)

    @torch.no_grad()
    def scores(self, ctx):
        """Product of both norms: a unit goes first that nothing makes or nothing reads. Nothing reads a block."""
        return {n: self.makes(s) * (s.group_norms("reads") if s.consumers else 1) for n, s in ctx.sites.items()}
