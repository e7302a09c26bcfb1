"""Importances in a line or two; numbers are those of the specification's section on standard controls."""

import math
import warnings

import pytest
import torch
from scipy import stats
from support import networks
from support.plans import carry_out
from torch import nn
from torch.nn import functional as F

from bench.api import Phase
from bench.runs.method_factory import make_method
from methods import norms

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        from torch.ao.pruning._experimental.pruner.FPGM_pruner import FPGMPruner
    except ImportError:
        said.append(None)


def one_layer(units=8, bias=True):
    """One convolution with batch norm as a site, for 8x8 grey images; read by a linear layer."""
    body = nn.Conv2d(1, units, 3, padding=1, bias=bias), nn.BatchNorm2d(units), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * units, 10))


def scores(ctx, name, **options):
    """Of a method by its name."""
    return make_method(name, {k: str(v) for k, v in options.items()}).scores(ctx)


def with_weights(make_ctx, rows):
    """The context of a network whose convolution has these weights, ``[n_units, 9]``."""
    network = one_layer(len(rows))
    network[0].weight.data = rows.reshape(-1, 1, 3, 3).clone()
    return make_ctx(arch=network)


def normal(n, seed=0):
    return torch.randn(n, 9, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arch", ["resnet20", "mlp_40_40"])
def test_13_4_weights_of_each_unit(make_ctx, arch):
    ctx = make_ctx(arch=arch)
    for name, p in (("l1_norm", 1), ("l2_norm", 2)):
        for site, found in scores(ctx, name).items():
            weight = ctx._model.network.get_submodule(site).weight
            assert torch.allclose(found, torch.stack([w.flatten().norm(p) for w in weight]))
            assert not found.requires_grad


@pytest.mark.parametrize("name", ["l1_norm", "l2_norm", "fpgm", "act_mean", "apoz"])
def test_13_4_the_smallest_of_each_site_go(make_ctx, name):
    ctx, method = make_ctx(arch="mlp_40_40", keep=0.4), make_method(name, {})
    found, masks = method.scores(ctx), method.select(ctx, ctx.budget)
    for site, mask in masks.items():
        assert not mask.all()
        assert found[site][mask].min() >= found[site][~mask].max()
    shares = [mask.float().mean() for mask in masks.values()]
    assert max(shares) - min(shares) < 0.1


def test_13_6_fpgm_of_duplicates_and_under_shift_and_scale(make_ctx):
    """More than 25 units: from there on the fast distance of torch loses what is alike."""
    rows = normal(40)
    rows[7] = rows[31]
    (plain,) = scores(with_weights(make_ctx, rows), "fpgm").values()
    (shifted,) = scores(with_weights(make_ctx, rows + 10), "fpgm").values()
    (scaled,) = scores(with_weights(make_ctx, 3 * rows), "fpgm").values()
    assert plain[7] == plain[31]
    assert torch.allclose(shifted, plain, rtol=1e-5)
    assert torch.allclose(scaled, 3 * plain, rtol=1e-5)
    by_hand = [sum(float((a - b).double().norm()) for b in rows) for a in rows]
    assert plain.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_13_6_fpgm_is_not_the_norm(make_ctx):
    """A cluster of large filters, a small outlier, a large one: the redundant ones go, not the small one."""
    rows = 5 + 0.01 * normal(8)
    rows[0], rows[1] = 0.1, -9.0
    ctx = with_weights(make_ctx, rows)
    (distance,), (norm,) = scores(ctx, "fpgm").values(), scores(ctx, "l2_norm").values()
    assert distance.argmin() not in (0, 1)
    assert norm.argmin() == 0
    assert distance.topk(2).indices.tolist() == [1, 0]


@pytest.mark.skipif(bool(said), reason="not run: torch has no FPGM pruner that imports silently")
def test_13_6_fpgm_is_that_of_torch(make_ctx):
    rows = normal(20)
    (found,) = scores(with_weights(make_ctx, rows), "fpgm").values()
    assert torch.allclose(found, FPGMPruner(0.5)._compute_distance(rows.reshape(-1, 1, 3, 3)), rtol=1e-5)


def test_bn_scale_compares_over_sites(make_ctx):
    ctx, method = make_ctx(keep=0.5), make_method("bn_scale", {})
    with torch.no_grad():
        for k, site in enumerate(ctx.sites.values()):
            ctx._model.network.get_submodule(site.norms[0]).weight.copy_(torch.linspace(-1, 1, site.n_units) + 0.01 * k)
    found, masks = method.scores(ctx), method.select(ctx, ctx.budget)
    for name, site in ctx.sites.items():
        assert torch.equal(found[name], ctx._model.network.get_submodule(site.norms[0]).weight.detach().abs())
    kept = torch.cat([found[n][m] for n, m in masks.items()])
    gone = torch.cat([found[n][~m] for n, m in masks.items()])
    assert (kept.min() >= gone).float().mean() > 0.95  # all but what the rest of the budget let in
    assert max(m.float().mean() for m in masks.values()) > min(m.float().mean() for m in masks.values())


@pytest.mark.parametrize("name", ["act_mean", "apoz"])
def test_activations_over_the_whole_training_set(make_ctx, name):
    network = one_layer()
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([-100.0, 100.0, *[0.0] * 6]))  # never active, always active
    ctx = make_ctx(arch=network)
    (found,) = scores(ctx, name).values()
    x = torch.cat([x for x, _ in ctx.batches()])
    a = network.eval()[:3](x).detach()
    expected = {"act_mean": a.mean(dim=(0, 2, 3)), "apoz": 1 - (a == 0).float().mean(dim=(0, 2, 3))}[name]
    assert torch.allclose(found, expected, atol=1e-5)
    assert found[0] == 0
    assert found[1] == (found[1] if name == "act_mean" else 1)
    assert found.argmax() == 1
    other = make_ctx(arch=network, batch_size=7)
    assert torch.allclose(next(iter(scores(other, name).values())), found, rtol=1e-4)
    (some,) = scores(ctx, name, batches=1).values()
    assert torch.allclose(some, {"act_mean": a, "apoz": (a != 0).float()}[name][:32].mean(dim=(0, 2, 3)), atol=1e-5)


def randomised():
    """A network with a batch norm that is no identity, in eval mode."""
    network = one_layer()
    with torch.no_grad():
        network[1].weight.uniform_(-1, 1)
        network[1].bias.uniform_(-0.5, 0.5)
        network[1].running_var.uniform_(0.5, 2)
    return network.eval()


def test_13_8_a_gate_of_one_is_the_identity_and_moves_nothing(make_ctx):
    ctx = make_ctx(arch=randomised())
    before = {k: v.clone() for k, v in ctx._model.network.state_dict().items()}
    plain = ctx._model.network(ctx.x)
    scores(ctx, "taylor")
    ctx.gate({name: torch.ones(site.n_units) for name, site in ctx.sites.items()})
    assert torch.equal(ctx._model.network(ctx.x), plain)
    assert all(torch.equal(v, before[k]) for k, v in ctx._model.network.state_dict().items())
    assert all(p.grad is None for p in ctx._model.network.parameters())


def test_13_8_taylor_is_what_the_norm_learns(make_ctx):
    """``dL/dz = gamma dL/dgamma + beta dL/dbeta``, squared for each batch, and the mean over batches."""
    ctx = make_ctx(arch=randomised())
    (found,) = scores(ctx, "taylor").values()
    norm, expected = ctx._model.network[1], 0.0
    for x, y in ctx.batches():
        loss = F.cross_entropy(ctx._model.network(x), y)
        by_gamma, by_beta = torch.autograd.grad(loss, (norm.weight, norm.bias))
        expected += (norm.weight * by_gamma + norm.bias * by_beta).detach().square() / 3
    assert torch.allclose(found, expected, rtol=1e-3)
    (once,) = scores(ctx, "taylor", batches=1).values()
    assert not torch.allclose(once, found, rtol=1e-2)


def test_13_8_taylor_is_the_change_of_the_loss_to_first_order(make_ctx):
    """On a linear network whose units matter little, so that the loss is nearly linear in them."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Linear(6, 10))
    with torch.no_grad():
        network[2].weight *= 0.02
    ctx = make_ctx(arch=network, batch_size=96)
    (found,) = scores(ctx, "taylor").values()
    x, y = next(ctx.batches())
    change = ctx.leave_one_out()["1"] - F.cross_entropy(network(x), y).detach()
    assert change.abs().max() > 1e-3
    assert torch.allclose(found.sqrt(), change.abs(), rtol=0.03, atol=2e-5)


def test_13_8_an_unused_unit_scores_nothing(make_ctx):
    network = randomised()
    with torch.no_grad():
        network[1].bias.fill_(0.5)  # so that every unit is active
        network[5].weight[:, 4 * 3 : 4 * 4] = 0  # unit 3 at its four positions
    (found,) = scores(make_ctx(arch=network), "taylor").values()
    assert found[3] == 0
    assert (found[[0, 1, 2, 4, 5, 6, 7]] > 0).all()


def spearman(one, two):
    ranks = torch.stack([one.argsort().argsort(), two.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()


def test_13_x_plumbing_scores_agree_with_leaving_units_out(make_training):
    """On a network in the middle of its training; chance gives 0 with a deviation of 0.18."""
    training = make_training(arch=one_layer(32, bias=False), train__lr=0.1)
    carry_out(training, (Phase(8),))
    (oracle,) = training.ctx.leave_one_out().values()
    agreement = {}
    for name in ("taylor", "bn_scale", "random"):
        (found,) = scores(training.ctx, name).values()
        agreement[name] = spearman(found, oracle)
    assert agreement["taylor"] > 0.9 > agreement["bn_scale"] > 0.4 > agreement["random"]


def test_10b_ebn_is_the_mean_behind_norm_and_relu(make_ctx):
    """MR 10(b): closed form against an integral in float64, and against draws to 1e-3; the sign of beta counts."""
    gammas, betas = (
        torch.tensor([1.0, -1.0, 0.5, 2.0, 0.1, 0.0, 0.0, 0.3]),
        torch.tensor([0, 0.7, -0.7, 1, -1, 0.4, -0.4, 0]),
    )
    network = one_layer()
    with torch.no_grad():
        network[1].weight.copy_(gammas)
        network[1].bias.copy_(betas)
    (found,) = scores(make_ctx(arch=network), "ebn").values()
    z = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    draws = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0))
    for value, gamma, beta in zip(found.tolist(), gammas.tolist(), betas.tolist(), strict=True):
        integral = torch.trapezoid((beta + abs(gamma) * z).clamp(min=0) * density, z).item()
        assert value == pytest.approx(integral, abs=1e-5)
        assert value == pytest.approx((beta + gamma * draws).clamp(min=0).mean().item(), abs=1e-3)
    assert found[5] == pytest.approx(0.4)
    assert found[6] == 0


def test_ebn_sums_over_norms_and_channels():
    network, sites = networks.found("grouped")
    site = sites["0"]
    expected = 0.0
    for name in site.norms:
        cut, norm = next(cut for cut in site.cuts if cut.layer == name), network.get_submodule(name)
        for k in cut.positions[cut.units == 2].tolist():
            expected += stats.norm.expect(
                lambda x: max(0, x), loc=norm.bias[k].item(), scale=abs(norm.weight[k].item())
            )
    assert norms.ebn(site)[2].item() == pytest.approx(expected, rel=1e-5)
