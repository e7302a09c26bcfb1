"""Pruning the largest filters first while the network trains, and its control, which prunes the smallest."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from bench.api import Method, lacks_scaled_norm, method, require_ranges
from methods.norms import ebn
from methods.papers import BARTOLDSON2020

SCORES = {"l2": lambda site: site.rows().norm(dim=1), "l1": lambda site: site.rows().abs().sum(dim=1), "ebn": ebn}


@method("prune_large", paper=BARTOLDSON2020)
class PruneLarge(Method):
    """Masks the largest units of each site, a few every so many epochs of the only training, for good."""

    largest = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        every: int = 1  # epochs from one event to the next (ours; code: 4 to 40)
        end: float = 0.75  # share of the training epochs after which there is no event (ours)
        score: Literal["l2", "l1", "ebn"] = "l2"  # size of a unit; ebn: expected output behind its norm (code)
        only: str = ""  # parts of names, with commas: sites that have none of them are exempt (code: the last layers)

        def __post_init__(self):
            require_ranges(self, every="[1, inf)", end="(0, 1]")

    def exempt(self, site):
        """What ``only`` does not name; without it no site."""
        return not any(part in site.name for part in self.config.only.split(","))

    def supports(self, site):
        """Sites with scales, for ``ebn``."""
        return lacks_scaled_norm(site) if self.config.score == "ebn" else None

    def scores(self, ctx):
        """What is worth keeping: small or large units, as ``largest`` says."""
        sign = -1 if self.largest else 1
        return {name: sign * SCORES[self.config.score](site).detach() for name, site in ctx.sites.items()}

    def select(self, ctx, budget):
        """What is left after the last event."""
        return self.after(ctx, 1.0)

    def after(self, ctx, done):
        """Masks after the share ``done`` of all events: equal widths, and ``1 - done`` of what lies between."""
        masks, kept, scores = {}, ctx.equal_widths(), self.scores(ctx)
        for name, site in ctx.sites.items():
            count = math.ceil(kept[name] + (site.n_units - kept[name]) * (1 - done) - 1e-9)
            worth = scores[name].masked_fill(~ctx.masks[name], -math.inf)
            masks[name] = torch.zeros_like(ctx.masks[name])
            masks[name][worth.argsort(descending=True, stable=True)[:count]] = True
        return masks

    def on_epoch_end(self, ctx):
        """An event, and the validation accuracy that it costs."""
        events = max(1, int(self.config.end * ctx.recipe.train.epochs) // self.config.every)
        event, rest = divmod(ctx.epoch + 1, self.config.every)
        if not rest and event <= events:
            before, _ = ctx.validate()
            ctx.masks = self.after(ctx, event / events)
            ctx.log(instability=before - ctx.validate()[0])


@method("prune_small", paper=BARTOLDSON2020)
class PruneSmall(PruneLarge):
    """The control of prune_large: the same schedule and sizes, the smallest units first."""

    largest = False
