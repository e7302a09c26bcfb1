"""Methods that break one rule of training, charging, declaring or of their context; one check finds each."""

import torch
from torch.nn import functional as F

from bench.api import Method, method


class FromBase(Method):
    """Prunes the base at once."""

    starts_from = "base"


@method("zero_objective")
class ZeroObjective(Method):
    """Its loss is a number with a gradient of zero."""

    def objective(self, ctx, logits):
        return 0.0 * logits.mean() + 1.0


@method("starves_a_layer")
class StarvesALayer(Method):
    """Takes the gradient of one layer away in each step, so that the optimizer skips it."""

    def on_backward_end(self, ctx):
        next(iter(ctx.sites.values())).weights()[0].grad = None


@method("starts_again")
class StartsAgain(Method):
    """Calls its own hook for the start of a phase after each epoch."""

    def on_phase_start(self, ctx):
        self.begun = ctx.phase

    def on_epoch_end(self, ctx):
        self.on_phase_start(ctx)


@method("refuses_late")
class RefusesLate(FromBase):
    """Finds out that it cannot work on linear units when it ranks them."""

    def scores(self, ctx):
        if any(site.kind == "linear" for site in ctx.sites.values()):
            raise ValueError("convolutions only")
        return super().scores(ctx)


@method("reads_labels_elsewhere")
class ReadsLabelsElsewhere(Method):
    """Declares that it reads no labels, and takes them from the batches of a pass of its own."""

    labels = False

    def objective(self, ctx, logits):
        _, y = next(ctx.batches())
        return logits.square().mean() * (1 + y.float().mean())


@method("computes_past_the_ledger")
class ComputesPastTheLedger(Method):
    """Runs convolutions by hand, as a free look at activations."""

    @torch.no_grad()
    def on_step_end(self, ctx):
        for weight in (site.weights()[0] for site in ctx.sites.values() if site.kind == "conv"):
            maps = F.conv2d(weight.new_ones(len(ctx.x), weight.shape[1], 8, 8), weight.clone(), padding=1)
            ctx.log(mean=maps.mean())


@method("changes_the_context")
class ChangesTheContext(Method):
    """Gives its context another ranking, for whatever asks it later."""

    def on_phase_start(self, ctx):
        rank = type(ctx).rank
        type(ctx).rank = lambda self, scores, ranking: rank(self, scores, "global")


@method("remembers_the_dense_size")
class RemembersTheDenseSize(FromBase):
    """Numbers for each unit in a buffer that follows the prune, and no cut by another part."""

    active = "always"

    def prepare(self, ctx):
        self.register_buffer("open", torch.ones(sum(ctx.sites.widths.values()), device=ctx.device))

    def on_phase_start(self, ctx):
        if ctx.phase == 1:
            self.open = self.open[: sum(ctx.sites.widths.values())]

    def on_batch_start(self, ctx):
        ctx.gate(dict(zip(ctx.sites, self.open.split(list(ctx.sites.widths.values())), strict=True)))
