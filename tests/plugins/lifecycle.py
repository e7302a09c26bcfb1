"""Methods that act at the edges of a run: in prepare, at a phase's start and end."""

import copy

import torch

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
