"""DDROP: dynamic dropout of unimportant units while training, then one prune and fine-tuning.

The paper's full text was not available: equations follow its abstract and the first author's code
(github.com/aftoul/ddrop, commit 979a2b1) with that code's defects mended; docs/methods/ddrop.md lists each.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from bench.api import STATISTICS, Method, method, require_ranges, whole_units
from methods.papers import DDROP


def rank_share(importance):
    """Rank of each unit from 0 (least important) to 1, ``[n_units]``; a single unit has 1; ties by index.

    The rank is argsort of argsort: one argsort gives the inverse permutation (the defect in the published code).
    """
    order = importance.argsort(stable=True)
    return order.argsort() / (len(order) - 1) if len(order) > 1 else torch.ones_like(importance)


SHARES = {  # how an importance becomes the share that sets the keep probability
    "rank": rank_share,
    "value": lambda u: (u - u.min()) / (u.max() - u.min()).clamp(min=1e-12),
    "code_bug": lambda u: u.argsort(stable=True) / max(len(u) - 1, 1),
}


def annealing(schedule, t, T):
    """``s(t)``: 1 at the start (nothing is dropped), 0 from ``t = T`` on (full strength)."""
    progress = min(t / T, 1.0) if T > 0 else 1.0
    return {"cosine": math.cos(math.pi * progress / 2), "linear": 1 - progress, "constant": 0.0}[schedule]


def keep_probability(share, low, high, s):
    """``pi(t) = s + (1 - s) pi`` with ``pi = low + share (high - low)``."""
    return s + (1 - s) * (low + share * (high - low))


@method("ddrop", paper=DDROP)
class DDrop(Method):
    """Dropout that rises during training and is higher for less important units; an l1 term on these; then prune."""

    @dataclass(frozen=True)
    class Config:
        """Options. Sources: code = the author's repository; ours = chosen here."""

        p_min: float = 0.2  # keep probability of the least important unit (code)
        p_max: float = 1.0  # of the most important one (code)
        schedule: Literal["cosine", "linear", "constant"] = "cosine"  # how dropping sets in (ours; code: constant)
        ramp: float = 1 / 3  # share of the training epochs until full strength (code)
        l1: float = 1e-4  # weight of the l1 term; 0 switches it off (ours: the abstract only says that there is one)
        l1_on: Literal["lowest", "weighted"] = "lowest"  # least important share, or all by 1 - rank share (ours)
        amount: float | None = None  # share of units under the l1 term; none: what the budget removes (ours)
        # what ranks the units of a site; one without batch norm takes act_mean instead of bn_gamma (code)
        importance: Literal["bn_gamma", "act_mean", "act_std", "apoz", "w_l2"] = "bn_gamma"
        share: Literal["rank", "value", "code_bug"] = "rank"  # what sets the keep probability (abstract)
        momentum: float = 0.9  # of the running activation statistics (ours)
        per_sample: bool = True  # a mask for each image, or one for the batch (code)
        rescale: bool = False  # divide what is kept by its keep probability (code: it does not)

        def __post_init__(self):
            if not 0 <= self.p_min <= self.p_max <= 1:
                raise ValueError(f"p_min {self.p_min} and p_max {self.p_max}: 0 <= p_min <= p_max <= 1")
            require_ranges(self, amount="[0, 1]", momentum="[0, 1)", ramp="[0, inf)", l1="[0, inf)")

    def prepare(self, ctx):
        """Count the units under the l1 term; track activation statistics where the importance is one."""
        c, kept = self.config, ctx.equal_widths()
        widths = ctx.sites.widths
        self.lowest = {n: w - kept[n] if c.amount is None else whole_units(c.amount, w) for n, w in widths.items()}
        no_gamma = {n for n, s in ctx.sites.items() if c.importance == "bn_gamma" and s.gamma() is None}
        self.kind = {n: "act_mean" if n in no_gamma else c.importance for n in ctx.sites}
        for name in (n for n, kind in self.kind.items() if kind in STATISTICS):
            ctx.track(name, STATISTICS[self.kind[name]], c.momentum)

    @torch.no_grad()
    def scores(self, ctx):
        """Importance ``u`` of each unit: ``|gamma|`` is the batch deviation of its normalised map."""
        weights = {"bn_gamma": lambda s: s.gamma(), "w_l2": lambda s: s.rows().square().sum(dim=1)}
        return {n: weights.get(self.kind[n], lambda s: ctx.tracked[s.name])(s) for n, s in ctx.sites.items()}

    def on_batch_start(self, ctx):
        """Draw which unit each image sees: Bernoulli of the keep probability, constant over the map."""
        c, self.importances = self.config, self.scores(ctx)
        s = annealing(c.schedule, ctx.epoch, c.ramp * ctx.recipe.train.epochs)
        chances = {n: keep_probability(SHARES[c.share](u), c.p_min, c.p_max, s) for n, u in self.importances.items()}
        ctx.keep_at_random(chances, c.per_sample, c.rescale)

    def penalty(self, ctx):
        """``l1`` times the sum of ``|gamma|`` (without batch norm ``||w||_1``) over each site's lowest units."""
        total = 0.0
        for name, u in self.importances.items():
            size = ctx.sites[name].rows().abs().sum(dim=1) if (g := ctx.sites[name].gamma()) is None else g
            lowest = size[u.argsort(stable=True)[: self.lowest[name]]]
            total += (lowest if self.config.l1_on == "lowest" else size * (1 - rank_share(u))).sum()
        return self.config.l1 * total
