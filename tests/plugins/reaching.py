"""Methods that change what is not theirs to change. Each is right in all else and must fail for its one reason."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bench.api import Method, Phase, method


class Trains(Method):
    """One phase of training with hooks."""

    def plan(self, ctx):
        """Without a prune."""
        return (Phase(ctx.recipe.train.epochs),)

    prunes = False


def network(ctx):
    """The network, which a site has."""
    return next(iter(ctx.sites.values())).network


def loss_of(ctx, x, y):
    return cross_entropy(ctx.forward(x).float(), y)


def own_step(ctx, x, y, rate=0.01):
    """One step of plain gradient descent."""
    weights = list(network(ctx).parameters())
    gradients = torch.autograd.grad(loss_of(ctx, x, y), weights)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients):
            weight -= rate * gradient


# --- weights -----------------------------------------------------------------------------------------------------


@method("trains_on_validation_in_a_probe")
class TrainsOnValidationInAProbe(Trains):
    """Its own optimizer on validation images at each epoch's end, inside a probe."""

    def on_epoch_end(self, ctx):
        optimizer = torch.optim.SGD(network(ctx).parameters(), lr=0.01)
        with ctx.probe(gradients=True):
            for x, y in ctx.batches("val"):
                optimizer.zero_grad()
                loss_of(ctx, x, y).backward()
                optimizer.step()


@method("trains_on_validation_by_data")
class TrainsOnValidationByData(Trains):
    """The same past the version counters."""

    def on_step_end(self, ctx):
        x, y = next(ctx.batches("val"))
        with ctx.probe(gradients=True):
            loss_of(ctx, x, y).backward()
            for weight in network(ctx).parameters():
                weight.data -= 0.01 * weight.grad


@method("penalizes_validation")
class PenalizesValidation(Trains):
    """Adds the loss of validation images to that of the batch."""

    def penalty(self, ctx):
        return loss_of(ctx, *next(ctx.batches("val")))


@method("penalizes_kept_validation")
class PenalizesKeptValidation(Trains):
    """The same with images that it took in prepare, a part of them."""

    def prepare(self, ctx):
        self.kept = next(ctx.batches("val"))

    def penalty(self, ctx):
        x, y = self.kept
        return loss_of(ctx, x[:8], y[:8])


@method("adds_validation_gradients")
class AddsValidationGradients(Trains):
    """Adds gradients of validation images, taken in a probe, to those of the step."""

    def on_backward_end(self, ctx):
        weights = list(network(ctx).parameters())
        with ctx.probe(gradients=True):
            gradients = torch.autograd.grad(loss_of(ctx, *next(ctx.batches("val"))), weights)
        for weight, gradient in zip(weights, gradients):
            weight.grad += gradient


@method("four_more_passes")
class FourMorePasses(Trains):
    """Four more passes over the training images in each epoch."""

    def on_epoch_end(self, ctx):
        for _ in range(4):
            for x, y in ctx.batches("train"):
                own_step(ctx, x, y)


@method("decays_after_each_epoch")
class DecaysAfterEachEpoch(Trains):
    """Weights at an epoch's end, without having declared it."""

    @torch.no_grad()
    def on_epoch_end(self, ctx):
        network(ctx)[0].weight.mul_(0.99)


@method("another_step_after_each")
class AnotherStepAfterEach(Trains):
    """A second step on each batch."""

    def on_step_end(self, ctx):
        own_step(ctx, ctx.x, ctx.y)


@method("decays_before_the_forward")
class DecaysBeforeTheForward(Trains):
    """Weights in a hook that may not write them."""

    @torch.no_grad()
    def on_batch_start(self, ctx):
        network(ctx)[0].weight.mul_(0.99)


@method("decays_past_the_counters")
class DecaysPastTheCounters(Trains):
    """The same past the version counters."""

    def penalty(self, ctx):
        network(ctx)[0].weight.data.mul_(0.99)
        return 0.0


@method("writes_while_it_selects")
class WritesWhileItSelects(Method):
    """Weights while it chooses."""

    starts_from = "base"

    def select(self, ctx, budget):
        for weight in network(ctx).parameters():
            weight.data.mul_(1.1)
        return super().select(ctx, budget)


@method("writes_in_a_layer_of_its_own")
class WritesInALayerOfItsOwn(Trains):
    """Weights in the forward of a layer that it inserted."""

    class Layer(nn.Module):
        def forward(self, a):
            with torch.no_grad():
                self.theirs[0].mul_(0.99)
            return a

    def prepare(self, ctx):
        self.layer = self.Layer()
        self.layer.theirs = [list(network(ctx).parameters())[-1]]
        ctx.insert(next(iter(ctx.sites)), self.layer)


@method("replaces_a_parameter")
class ReplacesAParameter(Trains):
    """A new parameter, which nothing trains."""

    def on_epoch_end(self, ctx):
        network(ctx)[0].weight = nn.Parameter(network(ctx)[0].weight.detach().clone())


# --- the recipe --------------------------------------------------------------------------------------------------


@method("other_decay")
class OtherDecay(Trains):
    """No weight decay, through private access."""

    def on_batch_start(self, ctx):
        ctx._model.optimizer.param_groups[0]["weight_decay"] = 0.0


@method("other_rate_for_one_step")
class OtherRateForOneStep(Trains):
    """Ten times the rate in one step, put back afterwards."""

    def on_backward_end(self, ctx):
        if ctx.step == 1:
            ctx._model.optimizer.param_groups[0]["lr"] *= 10


@method("trains_fewer_parameters")
class TrainsFewerParameters(Trains):
    """Takes a parameter away from the optimizer."""

    def on_step_end(self, ctx):
        parameters = ctx._model.optimizer.param_groups[0]["params"]
        if ctx.step == 0 and len(parameters) > 2:
            parameters.pop()


@method("hooks_the_optimizer")
class HooksTheOptimizer(Trains):
    """Another momentum in each step, set where nobody looks."""

    def on_batch_start(self, ctx):
        if ctx.epoch == ctx.step == 0:
            ctx._model.optimizer.register_step_pre_hook(lambda *given: None)


@method("mixes_images")
class MixesImages(Trains):
    """An augmentation that is not the recipe's."""

    def on_batch_start(self, ctx):
        ctx.x.lerp_(ctx.x.flip(0), 0.3)


@method("other_labels")
class OtherLabels(Trains):
    """Trains on labels of its own."""

    def on_batch_start(self, ctx):
        ctx.y.fill_(0)


@method("smooths_labels")
class SmoothsLabels(Trains):
    """Writes into the recipe."""

    def prepare(self, ctx):
        object.__setattr__(ctx.recipe, "label_smoothing", 0.1)


@method("forgets_its_forwards")
class ForgetsItsForwards(Trains):
    """Sets the ledger back."""

    def on_epoch_end(self, ctx):
        with ctx.probe():
            ctx.forward(ctx.x)
        ctx._model.ledger.counts = {"forward": 0, "backward": 0, "macs": 0}


@method("hooks_a_layer")
class HooksALayer(Method):
    """Leaves a hook on the last layer that it scores by."""

    starts_from = "base"

    def scores(self, ctx):
        list(network(ctx).modules())[-1].register_forward_pre_hook(lambda *given: None)
        return super().scores(ctx)


# --- torch -------------------------------------------------------------------------------------------------------


@method("leaves_a_global_hook")
class LeavesAGlobalHook(Trains):
    """On every module of the process."""

    def prepare(self, ctx):
        nn.modules.module.register_module_forward_hook(lambda *given: None)


@method("leaves_a_global_optimizer_hook")
class LeavesAGlobalOptimizerHook(Method):
    """On every optimizer of the process, when it comes to the prune."""

    starts_from = "base"

    def scores(self, ctx):
        register_optimizer_step_pre_hook(lambda *given: None)
        return super().scores(ctx)


class Passes(torch.overrides.TorchFunctionMode):
    """Changes nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@method("leaves_a_mode")
class LeavesAMode(Trains):
    """A function mode that stays on."""

    def on_phase_start(self, ctx):
        Passes().__enter__()


@method("lowers_the_precision")
class LowersThePrecision(Trains):
    """Of all matrix products of the process."""

    def on_phase_start(self, ctx):
        torch.set_float32_matmul_precision("medium")


@method("switches_kernels_off")
class SwitchesKernelsOff(Trains):
    """oneDNN is not used any more."""

    def prepare(self, ctx):
        torch.backends.mkldnn.set_flags(False)
