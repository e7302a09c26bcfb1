"""DropNeuron: group lasso on the weights that make each neuron and on those that read it, from the start."""

from dataclasses import dataclass

import torch

from bench.api import Method, method, require_ranges
from methods.papers import PAN2016


@method("dropneuron", paper=PAN2016)
class DropNeuron(Method):
    """Group lasso on what makes and on what reads each neuron; a neuron goes when either is small."""

    native = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        makes: float = 5e-5  # weight of the norms of what makes each neuron (code: 5e-4 times 0.1)
        reads: float = 5e-5  # weight of the norms of what reads each neuron (code: 5e-4 times 0.1)
        l1: float = 1e-5  # weight of all absolute parameters of these layers (code: 1e-4 times 0.1)
        threshold: float = 0.01  # native track: neurons go whose smaller norm is at most this (code)

        def __post_init__(self):
            require_ranges(self, makes="[0, inf)", reads="[0, inf)", l1="[0, inf)", threshold="[0, inf)")

    def exempt(self, site):
        """Convolutions stay as they are."""
        return site.kind != "linear"

    def neurons(self, ctx):
        """Sites of neurons."""
        return [site for site in ctx.sites.values() if not self.exempt(site)]

    def penalty(self, ctx):
        """Norms of both groups of each neuron, and absolute parameters of the layers around them."""
        option, total = self.config, 0.0
        for site in self.neurons(ctx):
            total += option.makes * site.group_norms("makes").sum() + option.reads * site.group_norms("reads").sum()
        layers = {
            layer for site in self.neurons(ctx) for layer in (*site.producers, *(c.layer for c in site.consumers))
        }
        around = [p for name, p in ctx.parameters.items() if name.rpartition(".")[0] in layers]
        return total + option.l1 * sum(p.abs().sum() for p in around)

    @torch.no_grad()
    def scores(self, ctx):
        """The smaller of both norms: a neuron without input is a constant, one without readers is nothing."""
        return {s.name: torch.minimum(s.group_norms("makes"), s.group_norms("reads")) for s in self.neurons(ctx)}

    def select(self, ctx, budget):
        """The best within the budget; in the native track all above the threshold, at least one of each site."""
        return ctx.rank(self.scores(ctx), self.ranking, above=self.config.threshold)
