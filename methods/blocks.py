"""Importances of residual blocks: for depth alone, or next to an importance of channels (``l1_norm+block_l1``)."""

import torch
from torch.nn.functional import cosine_similarity

from bench.api import Method, importance, method
from methods.papers import BLALOCK2020, MEN2024, MOLCHANOV2019


@method("block_random", paper=BLALOCK2020)
class BlockRandom(Method):
    """Random blocks, the same share of every site: what any choice of blocks has to beat."""

    starts_from = "base"
    kinds = ("block",)

    def scores(self, ctx):
        """Uniform random numbers."""
        return ctx.draw()


@importance("block_l1", kinds=("block",))
def block_l1(site):
    """Mean absolute weight of each block's branches, ranked within its site."""
    return torch.stack([weights.abs().mean() for weights in site.branches()])


@importance("block_taylor", paper=MOLCHANOV2019, ranking="global", needs="gate_gradients", kinds=("block",))
def block_taylor(site, gradients):
    """Squared derivative of the batch's loss by a gate on each block's branches, compared over all sites."""
    return gradients.mean(dim=0).square()


@importance("block_change", paper=MEN2024, ranking="global", needs="block_io", kinds=("block",))
def block_change(site, values):
    """1 - cosine of a block's input and output, mean over images: how much the block changes its stream."""
    before, after = values.flatten(2)
    return (1 - cosine_similarity(before, after, dim=1)).mean()
