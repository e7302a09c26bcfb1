"""A method with a curve over shares of units left, as one that prunes in steps has."""

import torch

from bench.api import PRUNE, Method, Phase, method


@method("shrinks")
class Shrinks(Method):
    """Half of the units are left in its second phase."""

    def plan(self, ctx):
        return (Phase(1), Phase(2), PRUNE, Phase(1, "finetune"))

    def on_phase_start(self, ctx):
        if ctx.phase == 1:
            ctx.masks = {name: torch.arange(width) < width // 2 for name, width in ctx.sites.widths.items()}

    def scores(self, ctx):
        return {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
