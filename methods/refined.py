"""Layer-wise refined pruning: layers whose inputs are mostly zero lose more units; see docs/methods/refined.md."""

from dataclasses import dataclass

from bench.api import Method, method, require_ranges
from methods.papers import LI2022


@method("refined", paper=LI2022)
class Refined(Method):
    """The same share of every site, more where its readers find many zeros (after Li et al. 2022; form ours)."""

    starts_from = "base"

    @dataclass(frozen=True)
    class Config:
        """Options."""

        a: float = 0.5  # how much a share of zeros adds to the share that goes; 0: the same of every site (ours)
        p_max: float = 0.9  # most that goes of a site (ours)
        batches: int = 4  # training batches that are looked at (ours)

        def __post_init__(self):
            require_ranges(self, a="[0, 10]", p_max="(0, 1)", batches="[1, inf)")

    def scores(self, ctx):
        """``|gamma|`` of each unit, or the l1 norm of its weights where there is no batch norm."""
        gammas = {name: site.gamma() for name, site in ctx.sites.items()}
        return {
            n: ctx.sites[n].rows().abs().sum(dim=1).detach() if g is None else g.detach() for n, g in gammas.items()
        }

    def zeros(self, ctx):
        """Mean share of exact zeros in what each site's readers read, padding not included: site -> number."""
        readers = list(ctx.readers.values())
        share, images = dict.fromkeys((layer.name for layer in readers), 0.0), 0
        for x, _ in ctx.batches("train", self.config.batches):
            with ctx.probe(), ctx.inputs(readers) as found:
                ctx.forward(x)
            share = {name: share[name] + len(x) * float((found[name] == 0).double().mean()) for name in share}
            images += len(x)
        of = {site: [share[layer.name] / images for layer in readers if site in layer.reads] for site in ctx.sites}
        return {site: sum(shares) / max(1, len(shares)) for site, shares in of.items()}

    def gone(self, zeros, p0):
        """``p = clip(p0 + a (z - mean z), 0, p_max)``: share of each site that goes."""
        mean = sum(zeros.values()) / len(zeros)
        return {n: min(max(p0 + self.config.a * (z - mean), 0.0), self.config.p_max) for n, z in zeros.items()}

    def select(self, ctx, budget):
        """The best units of each site, in the shares that the least ``p0`` within the budget leaves."""
        zeros, widths = self.zeros(ctx), ctx.sites.widths
        low, high = -10.0, 11.0
        for _ in range(50):
            p0 = (low + high) / 2
            gone = self.gone(zeros, p0)
            fits = ctx.fits({n: max(1, round((1 - gone[n]) * width)) for n, width in widths.items()})
            low, high = (low, p0) if fits else (p0, high)
        return ctx.rank(self.scores(ctx), {n: 1 - gone for n, gone in self.gone(zeros, high).items()})
