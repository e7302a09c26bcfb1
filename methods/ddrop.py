"""DDROP: dynamic dropout of unimportant units while training, then one prune and fine-tuning.

The paper's full text was not at hand: equations follow its abstract and the first author's code
(github.com/aftoul/ddrop, commit 979a2b1) with that code's defects mended; docs/methods/ddrop.md lists each.
"""

import math
from dataclasses import dataclass

import torch

from bench.api import Method, method
from methods.papers import DDROP

STATISTICS = {  # of a site's activations [n_units, values]; as the consumer reads them
    "act_mean": lambda a: a.abs().mean(dim=1),
    "act_std": lambda a: a.std(dim=1),
    "apoz": lambda a: (a > 0).float().mean(dim=1),
}


def rank_share(importance):
    """Rank of each unit from 0 (least important) to 1, ``[n_units]``; a single unit has 1; ties by index.

    Rank is argsort of argsort: one argsort gives the inverse permutation (the defect in the published code).
    """
    rank = importance.argsort(stable=True).argsort()
    return rank / (len(rank) - 1) if len(rank) > 1 else torch.ones_like(importance)


def annealing(schedule, t, T):
    """``s(t)``: 1 at the start (nothing is dropped), 0 from ``t = T`` on (full strength)."""
    progress = min(t / T, 1.0) if T > 0 else 1.0
    return {"cosine": math.cos(math.pi * progress / 2), "linear": 1 - progress, "constant": 0.0}[schedule]


def keep_probability(share, low, high, s):
    """``pi(t) = pi + (1 - pi) s`` with ``pi = low + share (high - low)``."""
    target = low + share * (high - low)
    return target + (1 - target) * s


@method("ddrop", paper=DDROP)
class DDrop(Method):
    """Drop units at random, the lower their rank the oftener, ever stronger; an l1 term on the lowest; then prune."""

    @dataclass(frozen=True)
    class Config:
        """Options. Sources: code = the author's repository; ours = chosen here."""

        p_min: float = 0.2  # keep probability of the least important unit (code)
        p_max: float = 1.0  # of the most important one (code)
        schedule: str = "cosine"  # cosine | linear | constant (ours; code's default "constant" switches it off)
        ramp: float = 1 / 3  # share of the training epochs until full strength (code)
        l1: float = 1e-4  # weight of the l1 term (ours; the term is the abstract's, its weight is not given)
        amount: float | None = None  # share of units under the l1 term; None: what the budget removes
        importance: str = "bn_gamma"  # or act_mean, act_std, apoz, w_l2; without batch norm act_mean (ours)
        momentum: float = 0.9  # of the running activation statistics (ours)
        per_sample: bool = True  # a mask per image (code), or one for the batch
        rescale: bool = False  # divide by the keep probability (code does not)

    def kind(self, site):
        """The importance used for a site."""
        wanted = self.config.importance
        return "act_mean" if wanted == "bn_gamma" and site.gamma() is None else wanted

    def prepare(self, ctx):
        """Track activation statistics where the importance is one."""
        for name, site in ctx.sites.items():
            if self.kind(site) in STATISTICS:
                ctx.track(name, STATISTICS[self.kind(site)], self.config.momentum)

    @torch.no_grad()
    def scores(self, ctx):
        """Importance ``u`` of each unit: ``|gamma|`` is the batch deviation of its normalised map."""
        read = {"bn_gamma": lambda s: s.gamma(), "w_l2": lambda s: s.rows().square().sum(dim=1)}
        return {n: read.get(self.kind(s), lambda s: ctx.tracked[s.name])(s).detach() for n, s in ctx.sites.items()}

    def on_batch_start(self, ctx):
        """Draw which unit each image sees: Bernoulli of the keep probability, constant over the map."""
        c = self.config
        s = annealing(c.schedule, ctx.epoch, c.ramp * ctx.recipe.train.epochs)
        self.share = {n: rank_share(u) for n, u in self.scores(ctx).items()}
        gates = {}
        for name, share in self.share.items():
            keep = keep_probability(share, c.p_min, c.p_max, s)
            draw = torch.rand(len(ctx.x) if c.per_sample else 1, len(keep), generator=ctx.rng, device=ctx.device)
            gates[name] = (draw < keep).float() / (keep if c.rescale else 1)
        ctx.gate(gates)

    def penalty(self, ctx):
        """``l1`` times the sum of ``|gamma|`` (of ``||w||_1`` without batch norm) over the lowest units of each site."""
        amount = self.config.amount if self.config.amount is not None else 1 - ctx.budget.keep
        total = 0.0
        for name, site in ctx.sites.items():
            lowest = self.share[name].argsort(stable=True)[: int(amount * site.n_units)]
            gamma = site.gamma()
            total = total + (site.rows().abs().sum(dim=1) if gamma is None else gamma)[lowest].sum()
        return self.config.l1 * total

    def select(self, ctx, budget):
        """The highest units, the same share of every site."""
        return ctx.rank(self.scores(ctx), "layer")
