"""Spectral dropout: drop weak coefficients of the activations' spectrum while training; then prune filters by energy.

The full text was not available: equations follow the abstract and two independent third-party readings. The paper
removes no filter: ranking filters by the energy that survives the mask is ours, and so is the control
``spectral_energy``; docs/methods/spectral.md keeps the three accounts apart.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from bench.api import Method, method, require_ranges
from methods.papers import SPECTRAL
from methods.transforms import SpectralDropout


@method("spectral", paper=SPECTRAL)
class Spectral(Method):
    """Spectral dropout after each stage; filters ranked by the energy that its hard mask leaves them (ours)."""

    inserts = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        transform: Literal["dct", "dht", "dft"] = "dct"  # DCT-II, Hartley, Fourier (abstract: DCT and relatives)
        axis: Literal["channel", "spatial", "flat"] = "channel"  # what is a vector (third party)
        rule: Literal["or", "and", "hard"] = "or"  # weak ones at random; strong ones at random; no chance (third party)
        inference: Literal["expect", "identity", "hard"] = "expect"  # weak ones times p_keep, as they are, or 0 (ours)
        p_keep: float = 0.5  # chance of what the rule leaves to chance (third party)
        weak: float = 0.5  # share of coefficients that the relative threshold calls weak at first (ours)
        tau: float | None = None  # absolute threshold instead of the relative one (third party: 0.25)
        warmup: float = 0.1  # share of the epochs over which the drop of weak ones rises (ours)
        where: Literal["stages", "all"] = "stages"  # last site of each run of equal widths, or every site (ours)

        def __post_init__(self):
            require_ranges(self, p_keep="[0, 1]", weak="[0, 1]", warmup="[0, 1]", tau="[0, inf]")

    def prepare(self, ctx):
        """Put a layer behind each site of ``where``."""
        widths, everywhere = [*ctx.sites.widths.values(), None], self.config.where == "all"
        self.chosen = [
            n for k, n in enumerate(ctx.sites) if self.inserts and (everywhere or widths[k] != widths[k + 1])
        ]
        self.layers = nn.ModuleList(SpectralDropout(self.config, ctx.rng) for _ in self.chosen)
        for name, layer in zip(self.chosen, self.layers, strict=True):
            ctx.insert(name, layer)

    def on_batch_start(self, ctx):
        """Warm up."""
        steps = self.config.warmup * ctx.recipe.train.epochs
        for layer in self.layers:
            layer.warm.fill_(min(1.0, ctx.progress / steps) if steps else 1.0)

    def on_epoch_end(self, ctx):
        """Account A: the share of coefficients that the last batch lost; it saves nothing."""
        for name, layer in zip(self.chosen, self.layers, strict=True):
            ctx.log(**{f"zeroed {name}": (layer.mask == 0).float().mean()})

    @torch.no_grad()
    def scores(self, ctx):
        """Account C: mean square of each unit's activation after the hard mask, its energy in the spectrum.

        The threshold is set again, on the trained network, as the control sets it.
        """
        layers = {name: SpectralDropout(self.config, ctx.rng) for name in ctx.sites}
        return ctx.mean(lambda site, a: layers[site.name](a.float(), hard=True).square().flatten(2).mean(dim=(0, 2)))


@method("spectral_energy", paper=SPECTRAL)
class SpectralEnergy(Spectral):
    """The compulsory control of ``spectral``: the same ranking of a network trained without spectral dropout."""

    starts_from = "base"
    inserts = False
