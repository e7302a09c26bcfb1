"""DropNet: drop the units with the smallest expected absolute activation, go back to the initial weights, repeat.

Equations and schedule follow the paper and its supplement; docs/methods/dropnet.md lists where its code differs.
"""

from dataclasses import dataclass
from typing import Literal

from bench.api import PRUNE, STATISTICS, Method, Phase, method, require_ranges
from methods.papers import DROPNET

METRICS = {  # what a unit is worth, from activations [B, n_units, ...]; the lowest are dropped
    "minimum": STATISTICS["act_mean"],
    "maximum": lambda a: -STATISTICS["act_mean"](a),
    "apoz": STATISTICS["apoz"],
}


@method("dropnet", paper=DROPNET)
class DropNet(Method):
    """Train, drop the lowest share of the remaining units by mean absolute activation, rewind, repeat."""

    native = True

    @dataclass(frozen=True)
    class Config:
        """Options."""

        metric: Literal[
            "minimum",
            "minimum_layer",
            "maximum",
            "maximum_layer",
            "random",
            "random_layer",
            "apoz",
            "apoz_layer",
            "oracle",
            "oracle_layer",
        ] = "minimum_layer"  # what is lowest, over all sites or (_layer) in each (paper; oracle_layer: ours)
        p: float = 0.2  # share of the remaining units that a cycle drops; 0 drops one unit (paper)
        rewind: Literal["init", "fresh"] = "init"  # a cycle starts from the first weights, or from new ones (paper)
        fraction: float = 0.1  # native track: stop when no more than this share of the units is left (code)
        kappa: float | None = None  # native track, instead: keep more than this share of the dense accuracy (paper)
        cycle_epochs: int = 0  # of each cycle; 0 takes the recipe's train.epochs (ours)
        order: Literal["paper", "code"] = "paper"  # absolute value, then mean over positions; or after it (paper)

        def __post_init__(self):
            require_ranges(self, p="[0, 1)", fraction="(0, 1]", kappa="(0, 1]", cycle_epochs="[0, inf)")

        @property
        def ranking(self):
            """Where units are compared."""
            return "layer" if self.metric.endswith("_layer") else "global"

    ranking = property(lambda self: self.config.ranking)

    def plan(self, ctx):
        """As many cycles as the drops it takes; then the last drop as PRUNE, rewind, train once more."""
        c = self.config
        self.by_accuracy = ctx.native and c.kappa is not None
        # A cycle more where accuracy decides: what the last drop leaves has to be judged too.
        self.cycles = self.by_accuracy + ctx.cycles(c.p, self.ranking, 0 if self.by_accuracy else c.fraction)
        cycle = Phase(c.cycle_epochs or ctx.recipe.train.epochs, rewind=c.rewind)
        return (*[cycle] * self.cycles, PRUNE, cycle, Phase(ctx.recipe.finetune.epochs, "finetune"))

    def prepare(self, ctx):
        """Room for the masks of the last cycle whose accuracy was good enough."""
        self.register_buffer("good", ctx.flat(ctx.masks))

    def scores(self, ctx):
        """Worth of each unit in the network as it is trained now, over the whole training set."""
        kind, after = self.config.metric.removesuffix("_layer"), self.config.order == "code"
        if kind in ("random", "oracle"):
            return ctx.draw() if kind == "random" else ctx.leave_one_out()
        return ctx.mean(lambda site, a: METRICS[kind](a.flatten(2).mean(dim=2, keepdim=True) if after else a))

    def on_phase_end(self, ctx):
        """Drop units for the next cycle, or stop."""
        if self.by_accuracy:
            top1 = {epoch["phase"]: epoch["val_top1"] for epoch in ctx.curve}
            if not top1 or top1[ctx.phase] <= self.config.kappa * top1[0]:  # without an epoch nothing is known
                return ctx.stop_search()
            self.good.copy_(ctx.flat(ctx.masks))
            # masked only: units are removed once that is final
            ctx.masks = ctx.prune_worst(self.scores(ctx), self.config.p, self.ranking)
        elif ctx.phase + 1 < self.cycles:
            ctx.shrink(ctx.prune_worst(self.scores(ctx), self.config.p, self.ranking))

    def select(self, ctx, budget):
        """The best within the budget; in the native track the last drop, or the last masks that were good enough."""
        if self.by_accuracy:
            return ctx.split(self.good)
        scores = self.scores(ctx)
        return ctx.prune_worst(scores, self.config.p, self.ranking) if ctx.native else ctx.rank(scores, self.ranking)
