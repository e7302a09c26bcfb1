"""The ledger: every forward that a method makes is counted, at the widths that ran, three times with a gradient."""

import copy

import pytest
import torch
from support.networks import GREY, half_masks, three_sites
from support.plans import carry_out, check_resume
from torch import nn

from bench.api import PRUNE, Method, Phase
from bench.conformance.subject import Subject
from bench.measure import flops
from bench.spec.registry import METHODS


@pytest.fixture
def ctx(make_ctx):
    return make_ctx(arch=three_sites(), shape=GREY, batch_size=32)


def network_of(ctx):
    return next(iter(ctx.sites.values())).network


def plain(network):
    """A copy that counts nowhere."""
    network = copy.deepcopy(network)
    for module in network.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return network


def macs(network):
    return flops.count(plain(network), GREY).total


WAYS = {
    "ctx.forward": lambda ctx: ctx.forward,
    "site.network": network_of,
    "a copy": lambda ctx: copy.deepcopy(network_of(ctx)),
    "a copy of a copy": lambda ctx: copy.deepcopy(copy.deepcopy(network_of(ctx))),
    "functional_call": lambda ctx: (
        lambda x: torch.func.functional_call(network_of(ctx), dict(network_of(ctx).named_parameters()), (x,))
    ),
    "inside another module": lambda ctx: nn.Sequential(nn.Identity(), copy.deepcopy(network_of(ctx))),
}


@pytest.mark.parametrize("way", WAYS)
def test_forward_is_counted_whatever_calls_it(ctx, way):
    ledger, cost = ctx._model.ledger, macs(network_of(ctx)) * len(ctx.x)
    with torch.no_grad():
        WAYS[way](ctx)(ctx.x)
    with torch.inference_mode():
        WAYS[way](ctx)(ctx.x)
    assert ledger.counts == {"forward": 64, "backward": 0, "macs": 2 * cost}
    WAYS[way](ctx)(ctx.x)
    assert ledger.counts == {"forward": 64, "backward": 32, "macs": 5 * cost}


def test_frozen_copy_costs_one_without_a_gradient_of_the_image(ctx):
    teacher = copy.deepcopy(network_of(ctx)).requires_grad_(False)
    teacher(ctx.x)
    assert ctx._model.ledger.macs == macs(teacher) * len(ctx.x)
    teacher(ctx.x.clone().requires_grad_(True))
    assert ctx._model.ledger.macs == 4 * macs(teacher) * len(ctx.x)


def test_slice_costs_what_is_left_of_it(ctx):
    small = ctx.sites.slice(network_of(ctx), half_masks(ctx.sites))
    with torch.no_grad():
        small(ctx.x)
    assert 0 < ctx._model.ledger.macs == macs(small) * len(ctx.x) < macs(network_of(ctx)) * len(ctx.x)


def test_shrunk_network_and_its_older_copies_cost_their_own(ctx):
    whole, masks = copy.deepcopy(network_of(ctx)), half_masks(ctx.sites)
    ctx.shrink(masks)
    with torch.no_grad():
        ctx.forward(ctx.x)
        whole(ctx.x)
    assert ctx._model.ledger.macs == (macs(network_of(ctx)) + macs(whole)) * len(ctx.x)


PARTS = {
    "forward itself": lambda network: network.forward,
    "its modules in a row": lambda network: nn.Sequential(*network.children()),
    "images of another size": lambda network: lambda x: network[0](x[:, :, ::2, ::2]),
}


@pytest.mark.parametrize("part", PARTS)
def test_layers_outside_of_a_whole_forward_cost_their_products(ctx, part):
    network, ledger, found = network_of(ctx), ctx._model.ledger, []
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: found.append(products(m, out)))
    with torch.no_grad():
        PARTS[part](network)(ctx.x)
    once = sum(found)
    assert ledger.macs == once > 0
    PARTS[part](network)(ctx.x)
    assert ledger.macs == 4 * once


def products(layer, out):
    return out.numel() * layer.weight[0].numel()


def test_only_the_passes_of_others_count_within_the_harness_own(ctx):
    class Asks(nn.Module):
        def __init__(self, teacher):
            super().__init__()
            self.teacher = teacher

        def forward(self, a):
            with torch.no_grad():
                self.teacher(ctx.x)
            return a

    ctx.insert(next(iter(ctx.sites)), Asks(copy.deepcopy(network_of(ctx))))
    with ctx._model.ledger.harness(network_of(ctx)):
        network_of(ctx)(ctx.x)
    assert ctx._model.ledger.macs == macs(network_of(ctx)) * len(ctx.x)


def test_failed_forward_leaves_the_ledger_in_order(ctx):
    with pytest.raises(RuntimeError):
        ctx.forward(torch.zeros(2, 7, 8, 8))
    assert ctx._model.ledger.macs == 0
    with torch.no_grad():
        ctx.forward(ctx.x)
    assert ctx._model.ledger.macs == macs(network_of(ctx)) * len(ctx.x)


def test_frozen_layers_cost_one_forward_in_a_step(ctx):
    network, ledger = network_of(ctx), ctx._model.ledger
    first = next(iter(ctx.sites))
    network.get_submodule(first).requires_grad_(False)
    assert ledger.step_macs(network) == 3 * macs(network)  # not declared as frozen
    ledger.frozen = frozenset({first})
    assert (
        ledger.step_macs(network) == 3 * macs(network) - 2 * flops.count(plain(network), GREY).by_module[first]["conv"]
    )
    network.get_submodule(first).requires_grad_(True)
    assert ledger.step_macs(network) == 3 * macs(network)  # declared, but trained


class Looks(Method):
    """Looks at its network in every hook, with and without gradients."""

    def prepare(self, ctx):
        self.__dict__["seen"] = [0, 0]
        self.look(ctx)

    def look(self, ctx):
        with ctx.probe(gradients=True):
            self.seen[1] += len(ctx.forward(next(ctx.batches())[0]))
        with ctx.probe():
            self.seen[0] += len(ctx.forward(next(ctx.batches("val"))[0]))

    on_phase_start = on_batch_start = on_backward_end = on_step_end = on_epoch_end = on_phase_end = look


def test_training_cost_is_steps_and_forwards(make_training):
    training = make_training(Looks(), arch=three_sites(), shape=GREY)
    carry_out(training, (Phase(2),))
    once, (without, with_gradient) = training.model.macs, training.method.seen
    assert (training.model.ledger.forward, training.model.ledger.backward) == (without, with_gradient)
    assert with_gradient == 32 * (2 + 2 * 3 * 3 + 2 + 1)
    assert training.train_macs == once * (3 * training.examples + without + 3 * with_gradient)


def test_resumed_run_has_the_cost_of_the_whole_one(make_training, tmp_path):
    def start(checkpoint):
        torch.manual_seed(0)
        return make_training(Looks(), arch=three_sites(), shape=GREY, checkpoint=checkpoint)

    assert check_resume(start, (Phase(2), PRUNE, Phase(1)), tmp_path / "c.pt").model.ledger.backward


RATES = {nn.BatchNorm2d: 2, nn.AdaptiveAvgPool2d: 1, nn.AvgPool2d: 1, nn.MaxPool2d: 1}
"""MACs of an element, as RULES counts them: of the output of a norm, of the input of a pooling."""


LOOKING = {"act_mean", "taylor", "dropnet", "edropout", "group_lasso", "tp_activation", "tp_hessian", "uniform_thin"}
"""Methods that differ in how they look at the network; the last one does not."""
OUTSIDE = {"freeze_schedule", "refit_bn"}
"""Methods that are charged for what the harness does for them outside of hooks: kept outputs, norms estimated again."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in LOOKING))
        for name in sorted({*METHODS.entries()} - OUTSIDE)
    ],
)
def test_ledger_equals_a_count_by_module_hooks(name, folder):
    """A global hook sees each layer that runs while a hook of the method does, but for what the harness looks at."""
    run, found = Subject(name, folder).start(finetune__epochs="2"), []

    def note(module, args, out):
        if run.training is not None and run.training.now.hook and not run.training.model.ledger.resting:
            cost = products(module, out) if isinstance(module, (nn.Conv2d, nn.Linear)) else 0
            rate = RATES.get(type(module), 0)
            elements = out.numel() if isinstance(module, nn.BatchNorm2d) else args[0].numel()
            found.append((cost + rate * elements) * (3 if out.requires_grad else 1))

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        run.go()
    finally:
        handle.remove()
    assert run.done.model.ledger.macs == sum(found)
