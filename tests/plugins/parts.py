"""Parts of compositions that ask which units would go now, and importances that they are composed with."""

import torch

from bench.api import PRUNE, Method, Phase, importance, method


@importance("largest_go")
def largest_go(site):
    """Minus the l2 norm: the default's opposite."""
    return -site.rows().norm(dim=1)


@importance("largest_go_globally", ranking="global")
def largest_go_globally(site):
    """The same over all sites."""
    return -site.rows().norm(dim=1)


@method("first_units_stay")
class FirstUnitsStay(Method):
    """Chooses masks itself."""

    starts_from = "base"

    def select(self, ctx, budget):
        kept = ctx.equal_widths()
        return {n: torch.arange(w, device=ctx.device) < kept[n] for n, w in ctx.sites.widths.items()}


@method("zeroes_what_goes")
class ZeroesWhatGoes(Method):
    """Soft pruning: after each epoch the weights of the units that would go now are zero, and may come back."""

    @torch.no_grad()
    def on_epoch_end(self, ctx):
        for name, mask in self.select(ctx, ctx.budget).items():
            for weight in ctx.sites[name].weights():
                weight[~mask] = 0


@method("asks_in_every_way")
class AsksInEveryWay(Method):
    """Keeps the answers of one moment."""

    def on_epoch_end(self, ctx):
        state = ctx.rng.get_state()

        def again(ask):
            ctx.rng.set_state(state)
            return ask()

        self.answers = [
            again(lambda: self.select(ctx, ctx.budget)),
            again(ctx.select),
            again(lambda: ctx.rank(self.scores(ctx), self.ranking)),
            again(lambda: ctx.rank(ctx.scores(), self.ranking)),
        ]
        ctx.rng.set_state(state)


@method("tunes_from_the_base")
class TunesFromTheBase(Method):
    """A plan that counts on the base's weights."""

    starts_from = "base"

    def plan(self, ctx):
        return (Phase(1, "finetune"), PRUNE, Phase(1, "finetune"))


@method("wants_global")
class WantsGlobal(Method):
    """No ranking of its own, but the word where it is done."""

    ranking = "global"


@method("asks_itself")
class AsksItself(Method):
    """Never comes to an answer."""

    starts_from = "base"

    def select(self, ctx, budget):
        return ctx.select()
