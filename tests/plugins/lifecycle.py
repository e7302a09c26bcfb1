"""Methods that act at the edges of a run: in prepare, at a phase's start and end."""

import copy

import torch
from torch import nn

from bench.api import PRUNE, Method, Phase, method


def network_of(ctx):
    return next(iter(ctx.sites.values())).network


def norms(ctx):
    return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}


class TunesFirst(Method):
    """From the base: fine-tune with its hooks on, prune, fine-tune."""

    starts_from = "base"

    def plan(self, ctx):
        return (Phase(2, "finetune"), PRUNE, Phase(1, "finetune"))


@method("keeps_a_teacher")
class KeepsATeacher(TunesFirst):
    """Copies the network in prepare, as distillation does."""

    def prepare(self, ctx):
        self.teacher = copy.deepcopy(network_of(ctx)).requires_grad_(False).eval()

    def penalty(self, ctx):
        with torch.no_grad():
            wanted = self.teacher(ctx.x)
        return 0.1 * (ctx.forward(ctx.x).float() - wanted).square().mean()


@method("sets_a_threshold")
class SetsAThreshold(TunesFirst):
    """Measures the network in prepare, in a buffer that a resume loads."""

    def prepare(self, ctx):
        self.register_buffer("threshold", ctx.flat(norms(ctx)).median())

    def on_step_end(self, ctx):
        ctx.log(threshold=self.threshold)


@method("remembers_the_start")
class RemembersTheStart(TunesFirst):
    """Takes a snapshot in prepare and goes back to it."""

    def prepare(self, ctx):
        ctx.snapshot("start")

    def on_phase_end(self, ctx):
        ctx.rewind("start")


def third_less(ctx):
    """Masks without the smaller third of each site's units."""
    return ctx.prune_worst(norms(ctx), 0.34, "layer")


@method("shrinks_at_the_start")
class ShrinksAtTheStart(TunesFirst):
    """Cuts to the budget before its only phase."""

    def on_phase_start(self, ctx):
        ctx.shrink(self.select(ctx, ctx.budget))


@method("shrinks_at_both_ends")
class ShrinksAtBothEnds(Method):
    """Cuts a third at the start of each of two phases and another one at the end."""

    def plan(self, ctx):
        return (Phase(2), Phase(2, rewind="init"), PRUNE, Phase(1, "finetune"))

    def on_phase_start(self, ctx):
        ctx.shrink(third_less(ctx))

    def on_phase_end(self, ctx):
        ctx.shrink(third_less(ctx))


class Scale(nn.Module):
    """One factor for all units."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, a):
        return a * self.factor


@method("inserts_for_the_second_phase")
class InsertsForTheSecondPhase(Method):
    """Makes a layer in prepare and puts it in when the second phase starts."""

    def plan(self, ctx):
        return (Phase(2), Phase(2), PRUNE, Phase(1, "finetune"))

    def prepare(self, ctx):
        self.layer = Scale()

    def on_phase_start(self, ctx):
        if ctx.phase == 1:
            ctx.insert(next(iter(ctx.sites)), self.layer)

    def on_epoch_end(self, ctx):
        ctx.log(factor=self.layer.factor.item())


@method("inserts_at_the_end")
class InsertsAtTheEnd(InsertsForTheSecondPhase):
    """Puts its layer in when the first phase ends."""

    def on_phase_start(self, ctx):
        pass

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            ctx.insert(next(iter(ctx.sites)), self.layer)


@method("goes_back_in_steps")
class GoesBackInSteps(Method):
    """Returns to a snapshot in the middle of an epoch, before and after a step."""

    def on_batch_start(self, ctx):
        if (ctx.epoch, ctx.step) == (0, 1):
            ctx.snapshot("early")
        if (ctx.epoch, ctx.step) == (1, 1):
            ctx.rewind("early")

    def on_step_end(self, ctx):
        if (ctx.epoch, ctx.step) == (0, 1):
            ctx.rewind("init")


@method("masks_after_no_epochs")
class MasksAfterNoEpochs(Method):
    """Chooses at the end of a phase of 0 epochs, as one-shot methods do."""

    starts_from = "base"

    def plan(self, ctx):
        return (Phase(0, "finetune"), PRUNE, Phase(2, "finetune"))

    def on_phase_end(self, ctx):
        ctx.masks = ctx.rank(norms(ctx), "layer")

    def select(self, ctx, budget):
        return ctx.masks


@method("shrinks_after_no_epochs")
class ShrinksAfterNoEpochs(MasksAfterNoEpochs):
    """Cuts to the budget there, and tunes with its hooks on."""

    def plan(self, ctx):
        return (Phase(0), Phase(2, "finetune"), PRUNE)

    def on_phase_end(self, ctx):
        if ctx.phase == 0:
            ctx.shrink(ctx.rank(norms(ctx), "layer"))

    def select(self, ctx, budget):
        return ctx.sites.ones()
