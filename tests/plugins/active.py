"""Methods and parts that act after the prune, or that cut and tune before it."""

import torch

from bench.api import PRUNE, Method, Phase, method


@method("pulls_after")
class PullsAfter(Method):
    """A penalty on the sliced network, as distillation would add one."""

    starts_from = "base"
    active = "after"
    strength = 1e-2

    def prepare(self, ctx):
        self.register_buffer("steps", torch.zeros(()))

    def penalty(self, ctx):
        return self.strength * sum(site.rows().square().sum() for site in ctx.sites.values())

    def on_step_end(self, ctx):
        self.steps += 1
        ctx.log(steps=self.steps, widths=sum(ctx.sites.widths.values()))


@method("drops_always")
class DropsAlways(Method):
    """Drops units while it trains and while it tunes, and counts for each how often it stayed."""

    active = "always"

    def prepare(self, ctx):
        self.seen = ctx.per_unit("seen")
        for name in ctx.sites:
            ctx.track(name, lambda a: a.flatten(2).mean(dim=(0, 2)), 0.9)

    def on_batch_start(self, ctx):
        gates = {name: (drawn < 0.8).float() for name, drawn in ctx.draw().items()}
        for name, gate in gates.items():
            self.seen[name] += gate
        ctx.gate(gates)

    def on_epoch_end(self, ctx):
        for name, seen in self.seen.items():
            ctx.log(**{f"seen {name}": seen.sum(), f"tracked {name}": ctx.tracked[name].sum()})


@method("cuts_layer_by_layer")
class CutsLayerByLayer(Method):
    """Cuts one site to what the budget leaves it, tunes, cuts the next; the prune finds nothing to do."""

    starts_from = "base"

    def plan(self, ctx):
        return (*[Phase(1, "finetune")] * len(ctx.sites), PRUNE)

    def prepare(self, ctx):
        norms = {n: site.rows().detach().norm(dim=1) for n, site in ctx.sites.items()}
        self.register_buffer("kept", ctx.flat(ctx.rank(norms, "layer")))
        self.widths = ctx.sites.widths

    def on_phase_start(self, ctx):
        now = list(ctx.sites)[ctx.phase]
        wanted = dict(zip(self.widths, self.kept.split(list(self.widths.values())), strict=True))
        ctx.shrink(ctx.sites.ones() | {now: wanted[now]})

    def select(self, ctx, budget):
        return ctx.sites.ones()


@method("cuts_twice_at_once")
class CutsTwiceAtOnce(Method):
    """Cuts in a phase without epochs and at the prune: nothing is tuned in between."""

    starts_from = "base"

    def plan(self, ctx):
        return (Phase(0, "finetune"), PRUNE, Phase(1, "finetune"))

    def on_phase_start(self, ctx):
        ctx.shrink(ctx.prune_worst(self.scores(ctx), 0.2, "layer"))


@method("asks_after")
class AsksAfter(Method):
    """Calls what ``call`` names, in the fine-tuning."""

    starts_from = "base"
    active = "after"

    call = "masks"

    def prepare(self, ctx):
        self.layer = torch.nn.Identity()

    def on_phase_end(self, ctx):
        ones, site = ctx.sites.ones(ctx.device), next(iter(ctx.sites))
        call = self.call
        if call == "masks":
            ctx.masks = ones
        else:
            arguments = {
                "shrink": (ones,),
                "rewind": ("init",),
                "insert": (site, self.layer),
                "track": (site, torch.mean, 0.5),
                "per_unit": ("late",),
            }
            getattr(ctx, call)(*arguments.get(call, ()))


@method("fails_after")
class FailsAfter(PullsAfter):
    """Raises when the fine-tuning ends."""

    def on_phase_end(self, ctx):
        raise RuntimeError("no")


class ShrinksAfterAPhase(Method):
    """Adds up the norms of units over two phases and cuts a fifth between them."""

    def plan(self, ctx):
        return (Phase(2), Phase(2), PRUNE, Phase(1, "finetune"))

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            self.cut(ctx, ctx.prune_worst(self.scores(ctx), 0.2, "layer"))


@method("numbers_follow_a_shrink")
class NumbersFollowAShrink(ShrinksAfterAPhase):
    """In numbers that the harness keeps for each unit."""

    def prepare(self, ctx):
        self.total = ctx.per_unit("total", 1.0)

    def on_step_end(self, ctx):
        for name, site in ctx.sites.items():
            self.total[name] += site.rows().detach().norm(dim=1)

    def cut(self, ctx, masks):
        ctx.shrink(masks)

    def scores(self, ctx):
        return dict(self.total)


@method("buffer_follows_a_shrink")
class BufferFollowsAShrink(ShrinksAfterAPhase):
    """In one buffer, which it makes smaller itself."""

    def prepare(self, ctx):
        self.register_buffer("total", ctx.flat(ctx.sites.ones(ctx.device)).float())

    def on_step_end(self, ctx):
        self.total += ctx.flat({name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()})

    def cut(self, ctx, masks):
        self.total = self.total[ctx.flat(masks)]
        ctx.shrink(masks)

    def scores(self, ctx):
        return ctx.split(self.total)
