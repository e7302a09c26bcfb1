"""Methods that disturb their network, their run or its repetition, each in one way that one check must find."""

import dataclasses
import itertools
import random
import time

import torch
from torch import nn

from bench.api import PRUNE, Method, Phase, method, regularizer

CALLS = itertools.count()


def norms(ctx):
    return {name: site.rows().detach().norm(dim=1) for name, site in ctx.sites.items()}


class FromBase(Method):
    """Prunes the base at once."""

    starts_from = "base"


@method("vector_penalty")
class VectorPenalty(Method):
    """Not a scalar."""

    def penalty(self, ctx):
        return next(iter(ctx.sites.values())).rows().norm(dim=1)[:1]


@method("detached_penalty")
class DetachedPenalty(Method):
    """Acts on nothing."""

    def penalty(self, ctx):
        return sum(norm.sum() for norm in norms(ctx).values())


@regularizer("square_root")
def square_root(site):
    """Its gradient is infinite at zero."""
    return 1e-4 * site.rows().square().sum(dim=1).sqrt().sum()


@method("tidies_up")
class TidiesUp(FromBase):
    """Changes the weights while it looks at them."""

    @torch.no_grad()
    def scores(self, ctx):
        for site in ctx.sites.values():
            next(iter(site.unit_parameters()))[0].mul_(0.5)
        return norms(ctx)


@method("leaves_gradients")
class LeavesGradients(FromBase):
    """A backward pass outside of a probe."""

    def scores(self, ctx):
        sum(site.rows().sum() for site in ctx.sites.values()).backward()
        return norms(ctx)


@method("looks_while_training")
class LooksWhileTraining(Method):
    """A forward pass that batch norm records."""

    @torch.no_grad()
    def on_batch_start(self, ctx):
        ctx.forward(ctx.x)


@method("freezes")
class Freezes(Method):
    """Leaves a parameter frozen."""

    def on_phase_end(self, ctx):
        next(iter(next(iter(ctx.sites.values())).unit_parameters()))[0].requires_grad_(False)


@method("peeks")
class Peeks(Method):
    """Asks for the test set and says nothing when it is refused."""

    def on_epoch_end(self, ctx):
        try:
            next(ctx.batches("test"))
        except Exception:
            ctx.log(refused=1)


@method("chatty")
class Chatty(Method):
    """Prints."""

    def on_epoch_end(self, ctx):
        print("epoch", ctx.epoch)


@method("hooks_for_good")
class HooksForGood(Method):
    """Leaves a hook."""

    def prepare(self, ctx):
        self.handle = ctx._model.network.register_forward_hook(lambda *given: None)


@method("hooks_until_the_end")
class HooksUntilTheEnd(Method):
    """Takes its hook off, unless something goes wrong before."""

    def on_phase_start(self, ctx):
        self.handle = ctx._model.network.register_forward_hook(lambda *given: None)

    def on_phase_end(self, ctx):
        self.handle.remove()


@method("sleepy")
class Sleepy(Method):
    """Takes much more of the processor's time than a step."""

    def on_step_end(self, ctx):
        end = time.process_time() + 0.008
        while time.process_time() < end:
            pass


@method("counts_runs")
class CountsRuns(FromBase):
    """Another choice every time."""

    def scores(self, ctx):
        turn = next(CALLS)
        return {name: torch.arange(site.n_units).add(turn).mul(7.0).sin() for name, site in ctx.sites.items()}


@method("dice")
class Dice(FromBase):
    """Random numbers of Python's own."""

    def scores(self, ctx):
        return {n: torch.tensor([random.random() for _ in range(s.n_units)]) for n, s in ctx.sites.items()}


@method("fixed_seed")
class FixedSeed(FromBase):
    """Seeds everybody's generator."""

    def prepare(self, ctx):
        torch.manual_seed(0)


@method("seed_zero_only")
class SeedZeroOnly(FromBase):
    """Works with the seed it was tried with."""

    def prepare(self, ctx):
        if ctx.rng.initial_seed() != 0:
            raise ValueError("try seed 0")


@method("forgetful")
class Forgetful(Method):
    """Its running mean is an attribute: a resumed run has lost it."""

    def prepare(self, ctx):
        self.mean = dict.fromkeys(ctx.sites, 0.0)

    def on_step_end(self, ctx):
        for name, norm in norms(ctx).items():
            self.mean[name] = self.mean[name] + norm + torch.rand(len(norm), generator=ctx.rng)

    def scores(self, ctx):
        return {name: mean * torch.ones(ctx.sites[name].n_units) for name, mean in self.mean.items()}


@method("late_buffer")
class LateBuffer(Method):
    """Registers a buffer when it is first needed."""

    def on_epoch_end(self, ctx):
        self.register_buffer("seen", torch.ones(1))


@method("share_of_epochs")
class ShareOfEpochs(Method):
    """Divides by the epochs of the recipe."""

    def plan(self, ctx):
        first = ctx.recipe.train.epochs
        return (Phase(first * 10 // (10 * first)), PRUNE, Phase(ctx.recipe.finetune.epochs, "finetune"))


@method("full_batches")
class FullBatches(Method):
    """Takes for granted that a batch is full."""

    def on_batch_start(self, ctx):
        ctx.gate({name: torch.ones(ctx.recipe.batch_size, site.n_units) for name, site in ctx.sites.items()})


@method("to_numpy")
class ToNumpy(FromBase):
    """numpy has no bfloat16."""

    def scores(self, ctx):
        with ctx.probe():
            self.level = ctx.forward(next(ctx.batches("val"))[0]).numpy().mean()
        return norms(ctx)


@method("sole_owner")
class SoleOwner(FromBase):
    """Takes for granted that nobody else trains."""

    def scores(self, ctx):
        if ctx.phase or ctx.step:
            raise RuntimeError("not my plan")
        return norms(ctx)


@method("scales_by_width")
class ScalesByWidth(FromBase):
    """Puts in a layer that multiplies by the number of channels, which is another one after the slice."""

    class Layer(nn.Module):
        def forward(self, a):
            return a * a.shape[1]

    def prepare(self, ctx):
        network = ctx._model.network
        name = next(name for name, m in network.named_modules() if isinstance(m, nn.ReLU))
        setattr(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], self.Layer())


@method("moves_the_goal")
class MovesTheGoal(FromBase):
    """Asks itself for less."""

    def select(self, ctx, budget):
        ctx._budget = dataclasses.replace(budget, keep_macs=0.9)
        return super().select(ctx, ctx.budget)


@method("pays_back")
class PaysBack(FromBase):
    """Gives its training cost away, where nobody counts it again."""

    def finalize(self, ctx):
        ledger = ctx._model.ledger
        ledger.macs = ctx._now.guard.macs = ledger.macs - 10**9


@method("renames_itself")
class RenamesItself(Method):
    """Leaves a module behind that no other run can load."""

    def finalize(self, ctx):
        ctx._model.network.add_module("mine", nn.Identity())


@method("starts_over")
class StartsOver(FromBase):
    """Throws the base's weights away before anything is measured."""

    def prepare(self, ctx):
        ctx.rewind("init")


@method("steps_back")
class StepsBack(Method):
    """Undoes every step."""

    def on_step_end(self, ctx):
        ctx.rewind("init")
