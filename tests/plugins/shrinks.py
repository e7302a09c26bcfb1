"""A method that logs shares of units left, as one that prunes in steps does."""

from bench.api import PRUNE, Method, Phase, method


@method("shrinks")
class Shrinks(Method):
    """Says that half of the units are left in its second phase."""

    def plan(self, ctx):
        return (Phase(1), Phase(2), PRUNE, Phase(1, "finetune"))

    def on_epoch_end(self, ctx):
        ctx.log(units_left=1.0 if ctx.phase == 0 else 0.5)

    def scores(self, ctx):
        return {name: site.rows().abs().sum(dim=1) for name, site in ctx.sites.items()}
