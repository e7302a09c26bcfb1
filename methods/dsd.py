"""Dense, sparse, dense training: as a control that stays dense, and our variant over whole filters, which are cut."""

from dataclasses import dataclass
from typing import Literal

import torch

from bench.api import PRUNE, Method, Phase, method, require_ranges, whole_units
from methods.papers import HAN2017


@method("dsd", paper=HAN2017)
class DSD(Method):
    """DSD: from the base, train without each layer's smallest weights, then all of them at a lower rate."""

    starts_from = "base"
    prunes = False

    @dataclass(frozen=True)
    class Config:
        """Options."""

        sparsity: float = 0.3  # share of each layer's weights that the sparse phase lacks (ours)
        rate: float = 0.1  # factor on the recipe's learning rate in the last phase (ours)
        release: Literal["saved", "zero"] = "saved"  # what masked weights are in the last phase (ours; abstract: zero)

        def __post_init__(self):
            require_ranges(self, sparsity="[0, 1)", rate="(0, 1]")

    def plan(self, ctx):
        """The fine-tuning epochs, half of them sparse."""
        dense = ctx.recipe.finetune.epochs // 2
        return (Phase(ctx.recipe.finetune.epochs - dense, "finetune"), Phase(dense, "finetune", rate=self.config.rate))

    def prepare(self, ctx):
        """Which single weights are masked, and what they were."""
        for k, weight in enumerate(self.weights(ctx)):
            self.register_buffer(f"masked{k}", torch.zeros_like(weight, dtype=torch.bool))
            self.register_buffer(f"saved{k}", weight.detach().clone())

    def weights(self, ctx):
        """Weights of layers alone: scales, tokens and embeddings of positions may have several axes, too."""
        return [p for name, p in ctx.parameters.items() if p.dim() > 1 and name.endswith("weight")]

    @torch.no_grad()
    def on_phase_start(self, ctx):
        """Zero the weights below the k-th largest of their layer; in the last phase put them back."""
        for k, weight in enumerate(self.weights(ctx)):
            masked, size = self.get_buffer(f"masked{k}"), weight.abs()
            if ctx.phase == 0:
                count = whole_units(self.config.sparsity, weight.numel())
                masked.copy_(size < size.flatten().kthvalue(count + 1).values)
                weight[masked] = 0
            elif self.config.release == "saved":
                weight[masked] = self.get_buffer(f"saved{k}")[masked]

    def on_backward_end(self, ctx):
        """No gradient for a masked weight: with a momentum of zero it stays zero."""
        for k, weight in enumerate(self.weights(ctx) if ctx.phase == 0 else ()):
            if weight.grad is not None:
                weight.grad[self.get_buffer(f"masked{k}")] = 0


@method("dsd_filter", paper=HAN2017)
class DSDFilter(Method):
    """Dense, sparse, dense, sparse over whole filters, from the base; the second sparse phase ends with the cut."""

    starts_from = "base"

    @dataclass(frozen=True)
    class Config:
        """Options."""

        rate: float = 0.1  # factor on the recipe's learning rate in the dense phase (ours)

        def __post_init__(self):
            require_ranges(self, rate="(0, 1]")

    def plan(self, ctx):
        """The fine-tuning epochs, a third of them dense."""
        third = ctx.recipe.finetune.epochs // 3
        last = Phase(ctx.recipe.finetune.epochs - 2 * third, "finetune")
        return (Phase(third, "finetune"), Phase(third, "finetune", rate=self.config.rate), last, PRUNE)

    def scores(self, ctx):
        """l1 norm of each unit's weights."""
        return {name: site.rows().detach().abs().sum(dim=1) for name, site in ctx.sites.items()}

    def on_phase_start(self, ctx):
        """Mask what the budget would remove; in the dense phase all have the weights that they had."""
        dense = {name: torch.ones_like(mask) for name, mask in ctx.masks.items()}
        ctx.masks = dense if ctx.phase == 1 else ctx.rank(self.scores(ctx), self.ranking)

    def select(self, ctx, budget):
        """What is not masked."""
        return ctx.masks
