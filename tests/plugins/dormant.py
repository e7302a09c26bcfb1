"""Methods with code that an ordinary run of the battery would not execute."""

from bench.api import PRUNE, Method, Phase, method


@method("tunes_half")
class TunesHalf(Method):
    """Half of the fine-tuning epochs before the cut: with one epoch in the recipe the hook would never run."""

    starts_from = "base"

    def plan(self, ctx):
        half = ctx.recipe.finetune.epochs // 2
        return (Phase(half, "finetune"), PRUNE, Phase(ctx.recipe.finetune.epochs - half, "finetune"))

    def on_batch_start(self, ctx):
        raise RuntimeError("the hook ran")


@method("tunes_a_quarter")
class TunesAQuarter(TunesHalf):
    """The same with a quarter of the epochs, and another hook."""

    def plan(self, ctx):
        first = ctx.recipe.finetune.epochs // 4
        return (Phase(first, "finetune"), PRUNE, Phase(ctx.recipe.finetune.epochs - first, "finetune"))

    def on_batch_start(self, ctx):
        """Nothing."""

    def on_phase_end(self, ctx):
        if ctx.epoch + 1 == ctx.recipe.finetune.epochs // 4:
            raise RuntimeError("the hook ran")


@method("two_rankings")
class TwoRankings(Method):
    """Its own select never asks for the scores that it defines."""

    starts_from = "base"

    def scores(self, ctx):
        return {name: -site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}

    def select(self, ctx, budget):
        return ctx.rank({name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}, "layer")


@method("late_step")
class LateStep(Method):
    """Acts from an epoch on that only long recipes have."""

    def on_step_end(self, ctx):
        if ctx.epoch < 100:
            return
        raise RuntimeError("the hook ran")


@method("long_recipes_only")
class LongRecipesOnly(Method):
    """Acts where the recipe is long enough."""

    def on_epoch_end(self, ctx):
        long = ctx.recipe.train.epochs >= 150
        if ctx.recipe.train.epochs >= 150:
            raise RuntimeError(f"the hook ran: {long}")


@method("late_but_reached")
class LateButReached(Method):
    """Acts from epoch 20 on: the battery's long run gets there, and the method is sound."""

    def on_epoch_end(self, ctx):
        if ctx.epoch >= 20:
            ctx.log(late=1.0)


@method("zero_penalty")
class ZeroPenalty(Method):
    """A penalty that is always zero."""

    def penalty(self, ctx):
        return 0.0 * sum(site.rows().square().sum() for site in ctx.sites.values())


@method("later_penalty")
class LaterPenalty(Method):
    """A penalty from an epoch on that the battery does not reach."""

    def penalty(self, ctx):
        strength = 1e-4 if ctx.epoch > 1000 else 0.0
        return strength * sum(site.rows().square().sum() for site in ctx.sites.values())
