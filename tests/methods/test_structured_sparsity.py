"""Structured sparsity learning (SSL); numbers are those of the tests (g) of the specification's section 2."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from support.block_networks import Added
from support.networks import residual
from support.plans import carry_out, prune
from torch import nn

from bench.api import PRUNE, Phase
from methods.structured_sparsity import StructuredSparsity

FILTERS, CHANNELS = {"filters": 1.0, "channels": 0.0}, {"filters": 0.0, "channels": 1.0}


def two_layers(units=5):
    """Neurons without a norm: 6 inputs of 64, read by a linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))


def stepping(make_ctx, arch, rate, shape=(1, 8, 8), **options):
    """Method and context in the phase of the norms, at a rate which momentum makes ``rate``."""
    units = options.pop("units", "width")
    ctx = make_ctx(
        method := StructuredSparsity(StructuredSparsity.Config(**options)), arch=arch, shape=shape, units=units
    )
    ctx._now.phase, ctx._now.rate = 1, rate * (1 - ctx.recipe.momentum)
    return ctx, method


def minimum(a, weight):
    """Where ``||w - a||^2 / 2 + weight ||w||`` is least, by a search that needs no gradient, from several points."""

    def objective(w):
        return 0.5 * ((w - a) ** 2).sum() + weight * np.sqrt((w**2).sum())

    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 20000, "maxfev": 20000}
    found = [
        minimize(objective, start, method="Nelder-Mead", options=options).x for start in (a, 0.5 * a, 1e-3 + 0 * a)
    ]
    return min([*found, 0 * a], key=objective)


@pytest.mark.parametrize("side", ["makes", "reads"])
def test_2g1_a_step_is_the_proximal_operator_of_the_norm(make_ctx, side):
    """MR 2(g)1: against a numeric minimiser; zero exactly where ``||a||`` is at most the weight."""
    options = FILTERS if side == "makes" else CHANNELS
    ctx, method = stepping(make_ctx, two_layers(), 0.6, **options)
    first, last = ctx._model.network[1], ctx._model.network[3]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (first.weight, last.weight):
            parameter.zero_()
        group = first.weight[:, :3] if side == "makes" else last.weight[:3].T
        group.copy_(torch.randn(5, 3, generator=generator) * torch.tensor([0.1, 0.3, 0.5, 1.0, 2.0])[:, None])
    before = group.detach().double().numpy().copy()
    method.on_step_end(ctx)
    after = group.detach().double().numpy()
    sizes = np.sqrt((before**2).sum(axis=1))
    assert (sizes <= 0.6).any() and (sizes > 0.6).any()
    for a, w, size in zip(before, after, sizes):
        assert np.allclose(w, minimum(a, 0.6), atol=1e-5)
        assert (w == 0).all() == (size <= 0.6)


def test_2g1_group_behind_a_norm_is_its_scale(make_ctx):
    """The gamma alone is stepped: ``|gamma|`` less the weight, not below zero; the filter's scale means nothing."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ctx, method = stepping(make_ctx, nn.Sequential(*network, nn.Linear(4, 10)), 0.5, **FILTERS)
    with torch.no_grad():
        ctx._model.network[1].weight.copy_(torch.tensor([-2.0, 0.3, 0.5, 1.0]))
        ctx._model.network[1].bias.fill_(0.7)
    before = {n: t.clone() for n, t in ctx._model.network.state_dict().items()}
    method.on_step_end(ctx)
    after = ctx._model.network.state_dict()
    assert after["1.weight"].tolist() == pytest.approx([-1.5, 0, 0, 0.5])
    assert {n for n in after if not torch.equal(after[n], before[n])} == {"1.weight"}


def test_2g1_gradient_of_the_code(make_ctx):
    """MR 2(b): ``weight * w / ||w||`` is added to the gradient of the loss, and 0 for a zero group."""
    for side, options in (("makes", {"filters": 0.3, "channels": 0.0}), ("reads", {"filters": 0.0, "channels": 0.3})):
        ctx, method = stepping(make_ctx, two_layers(), 1.0, proximal=False, **options)
        first, last = ctx._model.network[1], ctx._model.network[3]
        with torch.no_grad():
            first.weight[2] = 0
            last.weight[:, 2] = 0
        for parameter in ctx._model.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        method.on_backward_end(ctx)
        layer, axis = (first, 1) if side == "makes" else (last, 0)
        w = layer.weight.detach().double().numpy()
        size = np.sqrt((w**2).sum(axis=axis, keepdims=True))
        expected = 1 + 0.3 * np.where(size > 0, w / np.where(size > 0, size, 1), 0)
        assert np.allclose(layer.weight.grad.numpy(), expected, rtol=1e-4)
        others = [p for p in ctx._model.network.parameters() if p is not layer.weight]
        assert all((p.grad == 1).all() for p in others)


def test_2g2_proximal_steps_reach_zero_and_gradients_do_not(make_training):
    """MR 2(g)2 and trap 0.4.3."""
    smallest = {}
    for proximal in (True, False):
        method = StructuredSparsity(StructuredSparsity.Config(filters=0.3, channels=0.3, proximal=proximal))
        torch.manual_seed(4)
        training = make_training(method, arch="mlp_40_40", train__epochs=12, train__schedule="constant")
        carry_out(training, method.plan(training.ctx)[:2])
        sizes = [site.rows().norm(dim=1).min().item() for site in training.ctx.sites.values()]
        smallest[proximal] = min(sizes)
    assert smallest[True] == 0 < smallest[False]


def test_2g3_zero_filters_and_zero_channels_are_removed_units(make_ctx):
    """MR 2(g)3: a filter of zeros, bias included, is its slice; so is a channel of zeros that one layer reads."""
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())
    network = nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10))
    ctx = make_ctx(arch=network)
    network.eval()
    masks = {name: torch.arange(site.n_units) % 2 == 0 for name, site in ctx.sites.items()}
    sliced = ctx.sites.slice(network, masks)(ctx.x).detach()
    state = {n: t.clone() for n, t in network.state_dict().items()}
    outputs = []
    for side, parts in (("makes", ("weight", "bias", "norm")), ("reads", ("weight",))):
        network.load_state_dict(state)
        for name, site in ctx.sites.items():
            site.scale_(masks[name], side, parts)
        outputs.append(network(ctx.x).detach())
    assert torch.allclose(outputs[0], sliced, atol=1e-5)
    assert torch.allclose(outputs[1], sliced, atol=1e-5)


@pytest.mark.parametrize("proximal", [True, False])
def test_2g4_full_coupling_with_a_padded_shortcut(make_training, proximal):
    """MR 2(g)4: penalty, step and scores run; without makers or without readers a unit is ranked last."""
    method = StructuredSparsity(StructuredSparsity.Config(proximal=proximal))
    network = residual(option="A", shape=(1, 8, 8), num_classes=10)
    training = make_training(method, arch=network, coupling="full", keep=0.6)
    carry_out(training, (Phase(1), Phase(1)))
    ctx = training.ctx
    for name, site in ctx.sites.items():
        site.scale_(torch.arange(site.n_units) != 1, "makes", ("gamma",))
        site.scale_(torch.arange(site.n_units) != 2, "reads", strict=False)
        score = method.scores(ctx)[name]
        assert set(score.argsort()[:2].tolist()) == {1, 2}
        assert (score[[0, 3]] > 1e-3).all()
        assert (score[[1, 2]] < 1e-6).all()


# --- depth: a group is all that a residual block adds ----------------------------------------------------------------

DEPTH = {"filters": 0.0, "channels": 0.0, "units": "depth"}


def layers(normed, blocks=5, width=4):
    """Residual blocks of two convolutions, with a norm at the end of each or without."""
    norm = partial(nn.BatchNorm2d, width) if normed else nn.Identity
    made = (
        Added(nn.Conv2d(width, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, width, 1, bias=False), norm())
        for _ in range(blocks)
    )
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), *made, *ends)


@pytest.mark.parametrize("normed", [True, False])
def test_2g1_step_of_a_block_is_the_proximal_operator_of_its_norm(make_ctx, normed):
    """MR 2(g)1: all weights of a block are one group, the scales of its last norm where it has one."""
    ctx, method = stepping(make_ctx, layers(normed), 0.5, depth=1.2, **DEPTH)
    blocks = list(ctx._model.network[2:7])
    groups = [[b.branch[3].weight] if normed else [b.branch[0].weight, b.branch[2].weight] for b in blocks]
    with torch.no_grad():
        for parameters, size in zip(groups, (0.1, 0.5, 0.6, 1.0, 2.0)):
            whole = torch.cat([p.flatten() for p in parameters]).norm()
            for parameter in parameters:
                parameter.mul_(size / whole)
    before = {n: t.clone() for n, t in ctx._model.network.state_dict().items()}

    def numbers():
        return [np.concatenate([p.detach().double().numpy().ravel() for p in g]) for g in groups]

    started = numbers()
    method.on_step_end(ctx)
    for a, w in zip(started, numbers(), strict=True):
        size = np.sqrt((a**2).sum())
        expected = minimum(a, 0.6) if normed else a * max(0, 1 - 0.6 / size)
        assert np.allclose(w, expected, atol=1e-5) and (w == 0).all() == (size <= 0.6 + 1e-6)
    changed = {n for n, t in ctx._model.network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n, p in ctx._model.network.named_parameters() if any(p is q for g in groups for q in g)}


def test_2g2_proximal_steps_remove_whole_blocks_and_gradients_do_not(make_training):
    """MR 2(g)2, of blocks: one is zero to the bit, and ranked last."""
    smallest = {}
    for proximal in (True, False):
        method = StructuredSparsity(StructuredSparsity.Config(depth=3.0, proximal=proximal))
        torch.manual_seed(4)
        training = make_training(method, arch=layers(True), units="depth", train__epochs=4, train__schedule="constant")
        carry_out(training, method.plan(training.ctx)[:2])
        ((name, score),) = method.scores(training.ctx).items()
        smallest[proximal] = float(training.ctx.sites[name].gamma().detach().min())
        assert int(score.argmin()) == int(training.ctx.sites[name].gamma().argmin())
    assert smallest[True] == 0 < smallest[False]


def test_2g3_block_of_zeros_is_a_removed_block(make_ctx):
    """MR 2(g)3, depth: its last gamma and beta are zero."""
    ctx = make_ctx(arch=layers(True), units="depth")
    network = ctx._model.network.eval()
    ((name, site),) = ctx.sites.items()
    masks = {name: torch.tensor([True, False, True, True, False])}
    site.scale_(masks[name], "makes", ("norm",))
    assert torch.equal(ctx.sites.slice(network, masks)(ctx.x), network(ctx.x))
    assert set(StructuredSparsity().scores(ctx)[name].argsort()[:2].tolist()) == {1, 4}


def test_2g4_blocks_and_widths_at_once(make_training):
    """Groups of all three kinds; channels are ranked among themselves, and blocks."""
    for proximal in (True, False):
        method = StructuredSparsity(StructuredSparsity.Config(depth=0.5, proximal=proximal))
        training = make_training(method, arch=layers(True), units="both", keep=0.6)
        carry_out(training, method.plan(training.ctx), prune)
        kept = training.model.sliced_by
        assert not kept["2"].all() and kept["2"].any()
        assert sum(int(m.sum()) for n, m in kept.items() if n != "2") < 15


def test_scores_are_the_product_of_both_norms(make_ctx):
    ctx = make_ctx(arch="resnet20")
    for name, score in StructuredSparsity().scores(ctx).items():
        site = ctx.sites[name]
        (tap,) = site.consumers
        read = ctx._model.network.get_submodule(tap.layer).weight.detach().double().numpy()
        gamma = ctx._model.network.get_submodule(site.norms[0]).weight.detach().double().numpy()
        expected = np.abs(gamma) * np.sqrt((read**2).sum(axis=(0, 2, 3)))
        assert np.allclose(score.numpy(), expected, rtol=1e-5)


def test_norms_act_in_the_second_phase_only_at_their_rate(make_training):
    """Contract 2.5, rate: the plan has everyone's epochs; zero weights are plain training, to the bit."""
    states = []
    for options in ({}, {"filters": 0.0, "channels": 0.0}, {"filters": 0.0, "channels": 0.0, "proximal": False}):
        method = StructuredSparsity(StructuredSparsity.Config(share=0.25, rate=0.5, **options))
        torch.manual_seed(3)
        training = make_training(method, arch=two_layers(), train__epochs=4)
        plan = method.plan(training.ctx)
        assert plan == (Phase(3), Phase(1, rate=0.5), PRUNE, Phase(1, "finetune"))
        seen = []
        for phase in plan[:2]:
            carry_out(training, (*[phase] * 1,)) if training.position[0] == 0 else None
            seen.append({n: t.clone() for n, t in training.model.network.state_dict().items()})
            if len(seen) == 1:
                training.position = (1, 0)
                carry_out(training, plan[:2])
        states.append(seen)
    assert all(torch.equal(states[0][0][n], states[1][0][n]) for n in states[0][0])  # the first phase
    assert not torch.equal(states[0][1]["1.weight"], states[1][1]["1.weight"])
    assert all(torch.equal(states[1][1][n], states[2][1][n]) for n in states[1][1])
    carry_out(training, (*plan[:2], PRUNE), prune)
    assert sum(training.ctx.sites.widths.values()) < 5


def test_bad_options_are_answered_with_their_range():
    for name, value, said in (
        ("filters", -1.0, "0 or more"),
        ("channels", -1.0, "0 or more"),
        ("depth", -1.0, "0 or more"),
        ("share", 1.1, "from 0 to 1"),
        ("rate", 0.0, "above 0 and at most 1"),
        ("rate", 2.0, "above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=f"{name} {value}: {said}"):
            StructuredSparsity.Config(**{name: value})
