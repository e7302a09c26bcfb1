"""The guard: what a method may not change is found in a run, by name; what it may change is left alone."""

import pytest
import torch
from support.paths import PLUGINS
from support.plans import carry_out, prune
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.conformance.subject import Subject
from bench.errors import METHOD, Diverged, RunFailed
from bench.training.composition import Composed
from bench.training.guard import GLOBAL_HOOKS

PLUGIN = PLUGINS / "reaching.py"
FOUND = {
    "trains_on_validation_in_a_probe": "changes weights inside of ctx.probe",
    "trains_on_validation_by_data": "changes weights inside of ctx.probe",
    "penalizes_validation": "passes validation images with a gradient in penalty",
    "penalizes_kept_validation": "passes validation images with a gradient in penalty",
    "adds_validation_gradients": "changes gradients in on_backward_end, after it asked for validation images",
    "four_more_passes": "changes the weights in on_epoch_end ('0.weight'): after a forward with a gradient",
    "decays_after_each_epoch": "changes the weights in on_epoch_end ('0.weight'): a method that does more there",
    "another_step_after_each": "changes the weights in on_step_end ('0.weight'): after a forward with a gradient",
    "decays_before_the_forward": "changes the weights in on_batch_start",
    "decays_past_the_counters": "changes the weights in penalty ('0.weight')",
    "writes_while_it_selects": "changes the weights in select ('0.weight')",
    "writes_in_a_layer_of_its_own": "changes the weights in a step",
    "replaces_a_parameter": "replaces parameters of the network",
    "other_decay": "changes the optimizer's weight_decay: 0.0 in place of the recipe's 0.0005",
    "other_rate_for_one_step": "changes the optimizer's lr",
    "trains_fewer_parameters": "changes the parameters that the optimizer trains",
    "hooks_the_optimizer": "registers a hook on the optimizer",
    "mixes_images": "changes the images or labels of a batch in place",
    "other_labels": "changes the images or labels of a batch in place",
    "smooths_labels": "changes the recipe",
    "forgets_its_forwards": "changes the count of its forwards in on_epoch_end",
    "hooks_a_layer": "leaves a hook on module '",
    "leaves_a_global_hook": "leaves a global hook of torch behind",
    "leaves_a_global_optimizer_hook": "leaves a global hook of torch behind",
    "lowers_the_precision": "changes torch's precision of matrix products and leaves it so",
    "switches_kernels_off": "changes torch's use of oneDNN and leaves it so",
    "leaves_a_mode": "changes torch's function modes and leaves it so",
}


@pytest.fixture(autouse=True)
def _unhooked():
    """No global hook of one test is left to the next."""
    before = [dict(hooks) for hooks in GLOBAL_HOOKS]
    yield
    assert [dict(hooks) for hooks in GLOBAL_HOOKS] == before
    assert torch.overrides._get_current_function_mode_stack() == []


def test_every_method_that_reaches_too_far_has_its_message():
    text = PLUGIN.read_text()
    assert {line.split('"')[1] for line in text.splitlines() if line.startswith("@method(")} == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_what_is_not_the_methods_is_found(name, folder):
    """And no global hook is left, which a fixture checks."""
    with pytest.raises(RunFailed) as failed:
        Subject(name, folder).run(train__epochs="2")
    assert FOUND[name] in str(failed.value)
    assert f"the method {name} " in str(failed.value)
    assert failed.value.blame == METHOD


def test_global_hooks_of_others_stay(make_training):
    handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
    try:
        training = make_training(arch="mlp_40_40")
        carry_out(training, (Phase(1),))
        training.guard.remove_hooks()
        assert handle.id in nn.modules.module._global_forward_hooks
    finally:
        handle.remove()


# --- what is allowed ---------------------------------------------------------------------------------------------


class Works(Method):
    """Everything that a method may do to weights, in each hook that may."""

    @torch.no_grad()
    def shrunk(self, ctx):
        for site in ctx.sites.values():
            for weight in site.weights():
                weight.mul_(0.999)

    on_phase_start = on_step_end = on_phase_end = shrunk

    def on_epoch_end(self, ctx):
        """Zero what the gradient says, then forget it all."""
        scores = ctx.mean(lambda site, gradients: gradients.square().mean(dim=0), "gate_gradients")
        for x, _ in ctx.batches("val"):
            with ctx.probe():
                ctx.forward(x)
        masks = ctx.rank(scores, "layer")
        with torch.no_grad():
            for name, site in ctx.sites.items():
                for weight in site.weights():
                    weight[~masks[name]] = 0
        ctx.rewind("init")

    def penalty(self, ctx):
        return 1e-4 * ctx.forward(ctx.x).float().square().mean()


class Cuts(Method):
    """Shrinks after it looked at gradients and at validation images."""

    def on_phase_end(self, ctx):
        next(ctx.batches("val"))
        scores = ctx.mean(lambda site, gradients: gradients.square().mean(dim=0), "gate_gradients")
        ctx.shrink(ctx.rank(scores, "layer"))


class Draws(Method):
    """Draws weights of its own in prepare."""

    def prepare(self, ctx):
        with torch.no_grad():
            next(iter(ctx.sites.values())).weights()[0].normal_(generator=ctx.rng)


class DrawsOverTheBase(Draws):
    starts_from = "base"


def test_method_may_write_shrink_and_draw_in_its_hooks(make_training):
    for method in (Works, Cuts, Draws):
        training = make_training(method(), arch="mlp_40_40")
        carry_out(training, (Phase(2), PRUNE, Phase(1)), prune)
        assert training.epochs == 3
        assert sum(training.ctx.sites.widths.values()) < 80
    with pytest.raises(RunFailed, match="changes the weights in prepare"):
        make_training(DrawsOverTheBase(), arch="mlp_40_40")


class Decays(Method):
    """More than zeros at the end of an epoch, as it declares."""

    writes = ("on_epoch_end",)

    @torch.no_grad()
    def on_epoch_end(self, ctx):
        for site in ctx.sites.values():
            site.scale_(torch.full((site.n_units,), 0.5), "makes")


class SetsToMinusZero(Method):
    """Zeros that have a sign, after a forward with a gradient."""

    @torch.no_grad()
    def on_epoch_end(self, ctx):
        ctx.mean(lambda site, gradients: gradients.square().mean(dim=0), "gate_gradients")
        for site in ctx.sites.values():
            site.scale_(torch.arange(site.n_units) > 3, "makes")


def test_declared_hook_may_write_and_every_one_may_set_to_zero(make_training):
    """Contract 2.7, writes; a composition may what one of its parts may."""
    for method in (Decays(), SetsToMinusZero(), Composed([Method(), Decays()])):
        training = make_training(method, arch="mlp_40_40")
        carry_out(training, (Phase(2),))
        assert training.epochs == 2
    assert Composed([Method(), Decays(), Decays()]).writes == ("on_epoch_end",)


def test_weights_that_are_not_numbers_are_compared_too(make_training):
    class Breaks(Method):
        @torch.no_grad()
        def on_step_end(self, ctx):
            next(iter(ctx.sites.values())).weights()[0].fill_(float("nan"))

        def on_batch_start(self, ctx):
            pass

    training = make_training(Breaks(), arch="mlp_40_40")
    with pytest.raises(Diverged):  # and not: changed in on_batch_start
        carry_out(training, (Phase(1),))


def test_assigning_a_removed_name_is_an_error_of_the_method(make_training):
    class SetsBack(Method):
        def on_epoch_end(self, ctx):
            ctx.forwarded = 0

    with pytest.raises(AttributeError, match=r"ctx\.forwarded cannot be set"):
        carry_out(make_training(SetsBack(), arch="mlp_40_40"), (Phase(1),))
