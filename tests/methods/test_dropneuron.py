"""DropNeuron; numbers are those of the tests (g) of the specification's section 1."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from support.whole_runs import verified, without_budget
from torch import nn

from bench.errors import Unsupported
from bench.runs.execute import execute
from bench.runs.method_factory import make_method
from methods.dropneuron import DropNeuron


def mlp(*widths):
    layers = [nn.Flatten()]
    for inp, out in pairwise(widths):
        layers += [nn.Linear(inp, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def test_1g1_penalty_is_both_group_norms_and_all_absolute_parameters(make_ctx):
    """MR 1(b), in float64 with ``W`` stored ``[in, out]`` as in the code: lo over axis 1, li over axis 0."""
    ctx = make_ctx(arch=mlp(64, 12, 7))
    option = DropNeuron.Config(makes=0.3, reads=0.7, l1=0.01)
    W = [layer.weight.detach().double().numpy().T for layer in ctx._model.network if isinstance(layer, nn.Linear)]
    b = [layer.bias.detach().double().numpy() for layer in ctx._model.network if isinstance(layer, nn.Linear)]
    li = sum(np.sqrt((w**2).sum(axis=0)).sum() for w in W[:2])  # hidden neurons, neither inputs nor classes
    lo = sum(np.sqrt((w**2).sum(axis=1)).sum() for w in W[1:])
    l1 = sum(np.abs(x).sum() for x in (*W, *b))
    assert DropNeuron(option).penalty(ctx).item() == pytest.approx(0.3 * li + 0.7 * lo + 0.01 * l1, rel=1e-5)


def test_1g1_gradient_of_the_penalty(make_ctx):
    """``makes * w / ||w||`` of a neuron that nothing reads twice, and finite at a dead one."""
    ctx = make_ctx(arch=mlp(64, 12))
    layer = ctx._model.network[1]
    with torch.no_grad():
        layer.weight[3] = 0
    DropNeuron(DropNeuron.Config(makes=2.0, reads=0.0, l1=0.0)).penalty(ctx).backward()
    w = layer.weight.detach().double().numpy()
    size = np.sqrt((w**2).sum(axis=1, keepdims=True))
    assert np.allclose(layer.weight.grad.numpy(), np.where(size > 0, 2 * w / np.maximum(size, 1e-30), 0), rtol=1e-4)


def killed(make_ctx):
    """A context of 64-6-10 with a dead-in neuron of positive bias, one of negative bias and one that nothing reads."""
    ctx = make_ctx(arch=mlp(64, 6))
    first, last = ctx._model.network[1], ctx._model.network[3]
    with torch.no_grad():
        first.weight[:2] = 0
        first.bias[:3] = torch.tensor([0.8, -0.8, 0.5])
        last.weight[:, 2] = 0
    return ctx, first, last


def test_1g2_compact_with_folding_is_the_network_with_killed_neurons(make_ctx):
    """MR 1(g)2: to 1e-6; without folding the constant of the first is missing. The prune takes it away, as a mask."""
    ctx, first, last = killed(make_ctx)
    ctx._budget = None
    masks = DropNeuron().select(ctx, ctx.budget)
    assert masks["1"].tolist() == [False] * 3 + [True] * 3
    network, x = ctx._model.network.eval(), ctx.x
    with torch.no_grad():
        before = network(x)
        plain = ctx.sites.slice(network, masks)(x)
        last.bias += last.weight[:, ~masks["1"]] @ torch.relu(first.bias[~masks["1"]] * torch.tensor([1.0, 1.0, 0.0]))
        folded = ctx.sites.slice(network, masks)(x)
    assert (folded - before).abs().max() < 1e-6
    assert (plain - before).abs().max() > 1e-2


def test_1g3_alive_are_neurons_with_both_sides(make_ctx):
    """MR 1(g)3: the code's ``min(alive in, alive out)`` gives 4 where the truth is 3."""
    ctx, _, _ = killed(make_ctx)
    ctx._budget = None
    site, t = ctx.sites["1"], DropNeuron.Config().threshold
    alive_in, alive_out = (int((site.group_norms(side) > t).sum()) for side in ("makes", "reads"))
    assert min(alive_in, alive_out) == 4
    assert int(DropNeuron().select(ctx, ctx.budget)["1"].sum()) == 3


def test_matched_ranking_is_by_the_smaller_norm(make_ctx):
    ctx = make_ctx(arch=mlp(64, 12, 7), keep=0.5)
    for name, score in DropNeuron().scores(ctx).items():
        layers = {"1": (1, 3), "3": (3, 5)}[name]
        made, read = (ctx._model.network[k].weight.detach().double().numpy() for k in layers)
        expected = np.minimum(np.sqrt((made**2).sum(axis=1)), np.sqrt((read**2).sum(axis=0)))
        assert np.allclose(score.numpy(), expected, rtol=1e-5)
    masks = DropNeuron().select(ctx, ctx.budget)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == ctx.equal_widths()


def test_convolutions_are_exempt_and_lenets_neurons_are_most_of_its_parameters(make_ctx):
    """MR 1(d): 17.7 % of the MACs and 94 % of the parameters of LeNet on 28x28 are of linear layers."""
    ctx = make_ctx(arch="lenet", shape=(1, 28, 28), keep=0.5)
    method, costs = DropNeuron(), ctx._model.costs
    exempt = [name for name, site in ctx.sites.items() if method.exempt(site)]
    assert exempt == ["conv1", "conv2"]
    of_layers = costs.macs_within(["fc1", "fc2"], costs.dense) / costs.macs(costs.dense)
    params = sum(p.numel() for layer in (ctx._model.network.fc1, ctx._model.network.fc2) for p in layer.parameters())
    assert round(100 * of_layers, 1) == 17.7
    assert round(100 * params / costs.params(costs.dense)) == 94
    ctx._budget, ctx._model.costs = None, costs.exempting(exempt)  # as a run does
    masks = method.select(ctx, ctx.budget)
    assert masks["conv1"].all() and masks["conv2"].all()


def test_macs_that_neurons_cannot_save_are_refused_and_parameters_met(make_run):
    with pytest.raises(Unsupported, match="all of the exempt conv1, conv2 already cost"):
        execute(*make_run("dropneuron", "lenet", keep=0.5))
    with pytest.raises(Unsupported, match="dropneuron exempts every site"):
        execute(*make_run("dropneuron"))


def test_native_run_removes_neurons_below_the_threshold(make_run):
    """From the start with a strong penalty; the record verifies."""
    options = {"makes": "0.05", "reads": "0.05", "threshold": "0.2"}
    done = verified(without_budget(make_run("dropneuron", "mlp_40_40", "tiny8", options=options, train__epochs=6)))
    assert 2 <= done.structure.units_after < 80
    assert done.spec.budget is None


def test_every_site_keeps_a_neuron(make_ctx):
    ctx = make_ctx(arch=mlp(64, 12, 7))
    ctx._budget = None
    masks = DropNeuron(DropNeuron.Config(threshold=1e6)).select(ctx, ctx.budget)
    assert [int(mask.sum()) for mask in masks.values()] == [1, 1]


def test_bad_options_are_answered_with_their_range():
    for name in ("makes", "reads", "l1", "threshold"):
        with pytest.raises(ValueError, match=f"{name} -0.1: 0 or more"):
            DropNeuron.Config(**{name: -0.1})
    assert make_method("dropneuron", {}).native
