"""Penalties on the size of units; numbers are those of the tests (g) and traps (h) of the specification's section 5."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.networks import SHAPE, images, made
from support.plans import carry_out
from torch import nn

from bench.api import Method, Phase
from bench.pruning.site_discovery import find_sites
from bench.runs.execute import execute
from methods.penalties import VARIANTS, GroupLasso, L1Penalty, L2Penalty, PseudoNorm, ratio, sizes

every_variant = pytest.mark.parametrize("variant", VARIANTS)
PENALTIES = [PseudoNorm, GroupLasso, L1Penalty, L2Penalty]


def term(variant):
    """``R`` of weights ``[n_units, inputs, positions]``."""
    return PseudoNorm(PseudoNorm.Config(variant=variant)).term


def weights(*shape, seed=0):
    """Float64 weights of units of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(*(shape or (8, 3, 9)), generator=generator, dtype=torch.float64)
    return w * torch.rand(len(w), 1, 1, generator=generator, dtype=torch.float64).exp()


def of_norms(*norms):
    """Weights whose units have these norms."""
    directions = torch.randn(len(norms), 2, 9, dtype=torch.float64)
    directions /= directions.flatten(1).norm(dim=1)[:, None, None]
    return directions * torch.tensor(norms, dtype=torch.float64)[:, None, None]


def gradient(function, w):
    """Gradient of ``function`` at ``w``."""
    w = w.clone().requires_grad_(True)
    return torch.autograd.grad(function(w), w)[0]


def dots(w, g):
    """``<w_i, g_i>`` of each unit."""
    return (w * g).flatten(1).sum(dim=1)


def test_5g01_bounds_and_extremes():
    assert ratio(torch.tensor([3.0, 4.0, 0.0, 0.0])).item() == pytest.approx(7 / 5)
    assert term("v3")(of_norms(3, 4, 0, 0)).item() == pytest.approx(1.4)
    assert term("v3")(of_norms(*[0.7] * 9)).item() == pytest.approx(3)
    assert term("v3")(of_norms(0, 0, 5, 0)).item() == pytest.approx(1)
    counts = {"v3": 8, "v3_l1": 8, "v2": 8 * 27, "v4": 8 * 3}
    for variant, count in counts.items():
        assert 1 < term(variant)(weights()) < math.sqrt(count)
    assert 8 < term("v1")(weights()) < 8 * math.sqrt(27)


@every_variant
def test_5g02_no_scale(variant):
    w = weights()
    g = gradient(term(variant), w)
    assert term(variant)(5 * w).item() == pytest.approx(term(variant)(w).item())
    per_unit = dots(w, g)
    assert abs(per_unit.sum()) < 1e-6 * per_unit.abs().max().clamp(min=1)
    assert g.abs().max() > 1e-3
    assert (per_unit.abs() < 1e-9).all() == (variant == "v1")  # which can therefore shrink no unit as a whole


def test_5g03_closed_form_and_pivot():
    w = weights()
    n = w.flatten(1).norm(dim=1)
    S, N = n.sum(), n.norm()
    g = gradient(term("v3"), w)
    assert torch.allclose(g, w * (1 / (n * N) - S / N**3)[:, None, None], rtol=1e-6)
    below = n < N**2 / S
    assert 0 < below.sum() < 8
    assert torch.equal(dots(w, g) > 0, below)


def test_5g04_descent_of_the_term_alone():
    """``R`` falls, the smallest unit goes to zero, the largest grows."""
    w = weights(6, 3, 9) / 10
    first, values = w.flatten(1).norm(dim=1), []
    for _ in range(700):
        values.append(term("v3")(w).item())
        w = w - 0.01 * gradient(term("v3"), w)
        if w.flatten(1).norm(dim=1).min() < 0.01:
            break
    last = w.flatten(1).norm(dim=1)
    assert all(b < a for a, b in pairwise(values))
    assert last.min() < 0.01 < 0.1 < first.min()
    assert last.argmin() == first.argmin()
    assert last[first.argmax()] > first.max()


def test_5g05_zeros():
    for function in (*map(term, VARIANTS), *(kind().term for kind in PENALTIES[1:])):
        for w in (of_norms(0, 1, 2).float(), torch.zeros(4, 3, 9)):
            value, g = function(w), gradient(function, w)
            assert value.isfinite()
            assert g.isfinite().all()
            assert g[0].abs().max() == 0


def test_5g06_variants_of_single_weights_are_one():
    w = weights(12, 1, 1)
    for other in ("v2", "v3_l1", "v4"):
        assert term(other)(w).item() == pytest.approx(term("v3")(w).item(), abs=1e-12)


@pytest.mark.parametrize("case", ["conv_bn", "conv_flatten", "mlp"])
def test_5g07_what_is_below_the_threshold_goes_and_nothing_changes(case):
    """With norms and biases the weights alone are not enough: what a unit gives without them has to be zero too."""
    network, x = made(case), images(16)
    sites = find_sites(network, SHAPE)
    for site in sites.values():
        for weight in site.weights():
            weight.data[:3] *= 1e-3
    masks = PseudoNorm().large(SimpleNamespace(sites=sites))
    assert all((~m).nonzero().flatten().tolist() == [0, 1, 2] for m in masks.values())
    sliced = sites.slice(network, masks)(x)
    for site in sites.values():
        for weight in site.weights():
            weight.data[:3] = 0
    assert (network(x) - sliced).abs().max() > 1e-2
    for site in sites.values():
        for parameter, _ in site.unit_parameters():
            parameter.data[:3] = 0
    assert (network(x) - sliced).abs().max() < 1e-4
    assert torch.equal(network(x).argmax(dim=1), sliced.argmax(dim=1))


def test_5g08_two_units_drift_apart():
    w = of_norms(1.0, 1.1)
    for _ in range(20):
        before = w.flatten(1).norm(dim=1)
        w = w - 0.01 * gradient(term("v3"), w)
        after = w.flatten(1).norm(dim=1)
        assert after[1] / after[0] > before[1] / before[0]


def test_5g09_the_curve_has_the_sparsity_of_each_site(make_training):
    method = PseudoNorm(PseudoNorm.Config(strength=10.0, ramp=0.0))
    training = make_training(method, arch="mlp_40_40")
    carry_out(training, (Phase(4),))
    for name, site in training.ctx.sites.items():
        told = [entry[f"hoyer {name}"] for entry in training.curve]
        assert all(0 <= h <= 1 for h in told)
        assert told[-1] > told[0] + 0.1
        norms = site.rows().norm(dim=1)
        expected = (math.sqrt(40) - norms.sum() / norms.norm()) / (math.sqrt(40) - 1)
        assert told[-1] == pytest.approx(expected.item(), abs=1e-5)
    assert training.curve[-1]["small"] == sum((~m).sum() for m in method.large(training.ctx).values())


def test_5g09_extremes(make_ctx):
    for norms, hoyer in (((1, 1, 1, 1), 0.0), ((0, 0, 2, 0), 1.0), ((0, 0, 0, 0), 0.0)):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
        with torch.no_grad():
            network[1].weight.copy_(torch.tensor(norms, dtype=torch.float32)[:, None].expand(4, 64))
        ctx = make_ctx(method := PseudoNorm(), arch=network)
        method.on_epoch_end(ctx)
        assert ctx._now.logged["hoyer 1"] == pytest.approx(hoyer, abs=0.3 if not any(norms) else 1e-4)


def test_5g10_group_lasso_and_the_pseudo_norm_agree_below_the_pivot_only():
    w = of_norms(0.2, 0.5, 2.0)
    one, two = gradient(term("v3"), w), gradient(GroupLasso().term, w)
    same = torch.nn.functional.cosine_similarity(one.flatten(1), two.flatten(1))
    n = w.flatten(1).norm(dim=1)
    assert same.tolist() == pytest.approx([1.0 if x < n.square().sum() / n.sum() else -1.0 for x in n])
    assert same[0] > 0 > same[2]


def test_5h01_small_weights_before_a_norm_are_not_small_units(make_ctx):
    ctx, method = make_ctx(), PseudoNorm()
    site = ctx.sites["blocks.0.conv1"]
    norm = ctx._model.network.get_submodule(site.norms[0])
    before = method.scores(ctx)[site.name]
    with torch.no_grad():
        site.weights()[0][3] *= 0.1
        norm.running_var[3] *= 0.01
        norm.weight[5] *= -0.1
    after = method.scores(ctx)[site.name]
    assert after[3].item() == pytest.approx(before[3].item(), rel=1e-2)
    assert after[5].item() == pytest.approx(0.1 * before[5].item(), rel=1e-4)


@pytest.mark.parametrize(("arch", "parameter"), [("resnet20", "blocks.0.bn1.weight"), ("mlp_40_40", "1.weight")])
def test_5h01_target_is_scales_of_norms_or_weights_without_norm(make_ctx, arch, parameter):
    for kind in PENALTIES:
        ctx = make_ctx(method := kind(kind.Config(target="bn_gamma", strength=1.0)), arch=arch)
        ctx._now.progress = 9.0
        with torch.no_grad():
            ctx._model.network.get_parameter(parameter).uniform_(-1, 1)
        method.penalty(ctx).backward()
        touched = {n for n, p in ctx._model.network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        firsts = {site.norms[0] if site.norms else site.name for site in ctx.sites.values()}
        assert touched <= {f"{first}.weight" for first in firsts}
        assert parameter in touched
        scores = method.scores(ctx)
        for name, site in ctx.sites.items():
            expected = site.rows().norm(dim=1) if site.gamma() is None else site.gamma()
            assert torch.allclose(scores[name], expected)


def test_5h02_every_step_makes_the_whole_larger_without_decay(make_ctx):
    w = weights()
    g = gradient(term("v3"), w)
    assert (w - 0.1 * g).norm().item() == pytest.approx(math.hypot(w.norm(), 0.1 * g.norm()))
    assert make_ctx(PseudoNorm(), arch="mlp_40_40").recipe.weight_decay > 0


def test_closed_forms_of_the_other_terms():
    w = weights()
    assert GroupLasso().term(w).item() == pytest.approx(w.flatten(1).norm(dim=1).sum().item())
    assert L1Penalty().term(w).item() == pytest.approx(w.abs().sum().item())
    assert L2Penalty().term(w).item() == pytest.approx(w.square().sum().item())
    assert torch.allclose(sizes(w.flatten(1), 1), w.flatten(1).abs().sum(dim=1))


def test_5h03_only_the_proximal_step_reaches_zero(make_training):
    smallest = {}
    for proximal in (False, True):
        method = PseudoNorm(PseudoNorm.Config(strength=10.0, proximal=proximal, ramp=0.0))
        training = make_training(method, arch="mlp_40_40", train__schedule="constant")
        carry_out(training, (Phase(12),))
        smallest[proximal] = min(site.rows().norm(dim=1).min().item() for site in training.ctx.sites.values())
    assert smallest[False] > 0 == smallest[True]


def test_5h03_the_proximal_step_is_the_l1_part(make_ctx):
    ctx = make_ctx(method := PseudoNorm(PseudoNorm.Config(strength=0.3, proximal=True, ramp=0.0)), arch="mlp_40_40")
    site = ctx.sites["1"]
    w = site.rows().detach().double()
    n = w.norm(dim=1)
    g = gradient(method.term, w[..., None])[..., 0]
    assert torch.allclose(g, -n.sum() / n.norm() ** 3 * w, rtol=1e-5)  # the rest of the gradient
    ctx._now.rate = 2.0
    method.on_step_end(ctx)
    rate = 2.0 / (1 - 0.9)  # of a steady gradient under the recipe's momentum
    expected = w * (1 - rate * 0.3 / (n.norm() * n)).clamp(min=0)[:, None]
    assert torch.allclose(site.rows().double(), expected, rtol=1e-4, atol=1e-7)


def test_5h05_a_site_keeps_a_unit_whatever_the_strength(make_training):
    config = PseudoNorm.Config(strength=300.0, threshold=0.99)
    training = make_training(PseudoNorm(config), arch="mlp_40_40")
    training.ctx._budget = None
    carry_out(training, (Phase(2),))
    masks = training.method.select(training.ctx, training.ctx.budget)
    assert all(1 <= m.sum() < 5 for m in masks.values())


def test_5h07_the_pruned_network_is_measured_before_it_is_fine_tuned(make_run):
    options = {"strength": "10", "threshold": "0.5"}
    done = execute(*make_run("l1l2", "mlp_40_40", "tiny8", options=options, train__epochs=3, finetune__epochs=5))
    assert done.metrics.pruned.loss != done.metrics.final.loss


def test_without_strength_the_term_starts_at_its_share_of_the_loss(make_training):
    for kind in PENALTIES:
        training = make_training(kind(kind.Config(share=0.25, ramp=0.0)), arch="mlp_40_40", train__lr=0.0)
        ctx, method = training.ctx, training.method
        method.on_phase_start(ctx)
        with ctx.probe(batch_statistics=True):
            loss = nn.functional.cross_entropy(ctx._model.network(ctx.x), ctx.y)
        assert (method.penalty(ctx) / loss).item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("kind", PENALTIES)
def test_the_weight_rises_and_zero_is_plain_training(make_training, kind):
    ctx = make_training(method := kind(kind.Config(strength=2.0, ramp=0.5)), train__epochs=8).ctx
    strengths = []
    for ctx._now.progress in (0.0, 1.0, 4.0, 7.9):
        strengths.append(method.now(ctx).item())
    assert strengths == [0.0, 0.5, 2.0, 2.0]
    states = []
    for method in (kind(kind.Config(strength=0.0)), Method()):
        training = make_training(method, arch="mlp_40_40")
        torch.manual_seed(5)
        nn.init.kaiming_normal_(training.model.network[1].weight)
        carry_out(training, (Phase(2),))
        states.append(training.model.network.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
