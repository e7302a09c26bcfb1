"""DDROP against its specification; test numbers and traps are those of the method's page."""

import math
from itertools import pairwise

import pytest
import torch
from support.networks import three_sites, two_sites
from support.plans import carry_out
from torch.nn import functional as F

from bench.api import Phase
from methods.ddrop import SHARES, DDrop, annealing, keep_probability, rank_share


def test_1g01_rank_is_argsort_of_argsort():
    importance = torch.tensor([0.3, 0.1, 0.2])
    assert rank_share(importance).tolist() == [1.0, 0.0, 0.5]
    assert rank_share(torch.tensor([0.0])).tolist() == [1.0]  # a single unit counts as the most important
    assert SHARES["code_bug"](importance).tolist() == [0.5, 1.0, 0.0]  # kept for ablations, never the default
    assert DDrop.Config().share == "rank"


def test_1g02_target_probabilities_are_evenly_spread():
    keep = keep_probability(rank_share(torch.tensor([5.0, 1.0, 3.0, 2.0, 4.0])), 0.2, 1.0, s=0.0)
    assert torch.allclose(keep.sort().values, torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    for m in range(2, 40):
        assert keep_probability(rank_share(torch.rand(m)), 0.2, 1.0, 0.0).mean().item() == pytest.approx(0.6)


def test_1g03_annealed_probability():
    for schedule, cases in (
        ("linear", {0: 1.0, 15: 0.6, 90: 0.2}),
        ("cosine", {0: 1.0, 15: 0.76569, 30: 0.2}),
        ("constant", {0: 0.2}),
    ):
        for t, expected in cases.items():
            s = annealing(schedule, t, 30)
            assert keep_probability(torch.tensor(0.0), 0.2, 1.0, s).item() == pytest.approx(expected, abs=1e-5)


def test_1g03_nothing_is_dropped_in_any_step_of_the_first_epoch(make_training):
    training = make_training(DDrop(DDrop.Config(p_min=0.0, p_max=0.0)), arch=three_sites())
    ctx, method = training.ctx, training.method
    ctx._model.network.train()
    state = {k: v.clone() for k, v in ctx._model.network.state_dict().items()}
    plain = ctx._model.network(ctx.x)
    for step in (0, 1, 2):
        ctx._now.step = step
        ctx._model.network.load_state_dict(state)
        method.on_batch_start(ctx)
        assert all(gate.min() == 1 for gate in ctx._model.gates.values.values())
        assert torch.equal(ctx._model.network(ctx.x), plain)


def test_1g04_monotone_in_time_and_importance_and_invariant_to_monotone_maps():
    importance = torch.rand(33)
    share = rank_share(importance)
    for schedule in ("linear", "cosine"):
        keeps = [keep_probability(share, 0.1, 0.9, annealing(schedule, t, 10)) for t in range(14)]
        assert all((b <= a + 1e-7).all() for a, b in pairwise(keeps))
        for keep in keeps:
            assert (keep[importance.argsort()].diff() >= -1e-7).all()
    assert torch.equal(share, rank_share(importance.exp() * 3 - 7))


def gates_at_full_strength(ctx, method, images=32):
    """One draw of gates after the ramp."""
    ctx._now.epoch = 1000
    ctx._now.x = torch.zeros(images, 1, 8, 8)
    method.on_batch_start(ctx)
    return ctx._model.gates.values


def test_1g05_gates_are_bernoulli_independent_over_images_and_units_and_constant_over_the_map(make_training):
    training = make_training(DDrop())
    ctx, method = training.ctx, training.method
    name = next(iter(ctx.sites))
    with torch.no_grad():
        ctx._model.network.get_submodule(ctx.sites[name].norms[0]).weight.copy_(torch.arange(16.0) + 1)
    draws = torch.cat([gates_at_full_strength(ctx, method, 1000)[name] for _ in range(110)])
    keep = keep_probability(torch.arange(16) / 15, 0.2, 1.0, 0.0)
    deviation = (keep * (1 - keep) / len(draws)).sqrt()
    assert ((draws.mean(dim=0) - keep).abs() <= 4 * deviation + 1e-9).all()
    correlation = torch.corrcoef(draws[:, :15].T) - torch.eye(15)
    assert correlation.abs().max() < 5 / math.sqrt(len(draws))
    lagged = torch.stack([torch.corrcoef(torch.stack([draws[1:, k], draws[:-1, k]]))[0, 1] for k in range(15)])
    assert lagged.abs().max() < 5 / math.sqrt(len(draws))

    ctx._now.x = torch.rand(4, 1, 8, 8)
    gates = gates_at_full_strength(ctx, method, 4)
    seen = {}
    consumer = ctx._model.network.get_submodule(ctx.sites[name].consumers[0].layer)
    handle = consumer.register_forward_hook(lambda m, args, out: seen.setdefault("read", args[0]))
    ctx._model.network.eval()(torch.rand(4, 1, 8, 8))
    handle.remove()
    dead = gates[name] == 0
    assert (seen["read"].flatten(2).abs().sum(dim=2)[dead] == 0).all()


def test_1g06_evaluation_and_state_are_those_of_the_plain_network(make_training):
    training = make_training(DDrop(), arch=three_sites())
    ctx, method = training.ctx, training.method
    keys = list(ctx._model.network.state_dict())
    before = ctx._model.network.eval()(ctx.x)
    ctx._model.network.train()
    method.on_batch_start(ctx)
    ctx._model.after_step()
    assert torch.equal(ctx._model.network.eval()(ctx.x), before)
    assert list(ctx._model.network.state_dict()) == keys


def test_1g07_dropped_units_get_no_gradient_from_that_image(make_training):
    training = make_training(DDrop())
    ctx = training.ctx
    name, site = next(iter(ctx.sites.items()))
    gate = torch.ones(1, 16)
    gate[0, 3] = 0
    ctx.gate({name: gate})
    ctx._model.network.train()
    ctx._now.x, ctx._now.y = ctx.x[:1], ctx.y[:1]
    F.cross_entropy(ctx._model.network(ctx.x), ctx.y).backward()
    norm = ctx._model.network.get_submodule(site.norms[0])
    conv = ctx._model.network.get_submodule(site.producers[0])
    for gradient in (norm.weight.grad, norm.bias.grad, conv.weight.grad):
        assert gradient[3].abs().max() == 0
        assert gradient[[0, 1, 2, 4]].abs().max() > 0


def test_1g08_an_amount_is_that_share_of_each_site(make_ctx):
    ctx = make_ctx(arch="lenet", shape=(1, 28, 28))
    for amount, counts in ((0.7, (14, 35, 350)), (0.58, (11, 29, 290)), (0.29, (5, 14, 145))):
        method = DDrop(DDrop.Config(amount=amount))
        method.prepare(ctx)
        assert tuple(method.lowest.values()) == counts


@pytest.mark.parametrize("network", [two_sites, three_sites])
def test_1g08_l1_touches_the_lowest_units_only(make_training, network):
    training = make_training(DDrop(DDrop.Config(amount=0.3)), arch=network())
    ctx, method = training.ctx, training.method
    with torch.no_grad():
        for norm in (m for m in ctx._model.network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
    for name in ctx.tracked:
        ctx.tracked[name].uniform_(0, 1)
    method.on_batch_start(ctx)
    method.penalty(ctx).backward()
    touched = set()
    for site in ctx.sites.values():
        importance = method.scores(ctx)[site.name]
        lowest = importance.argsort()[: int(0.3 * site.n_units)]
        target = ctx._model.network.get_submodule((site.norms or site.producers)[0]).weight
        touched.add(target)
        expected = torch.zeros_like(target)
        expected[lowest] = 1e-4 * target.detach()[lowest].sign()
        assert torch.allclose(target.grad, expected)
    others = [p for p in ctx._model.network.parameters() if not any(p is t for t in touched)]
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in others)


def test_1g09_pruned_units_are_gone_before_fine_tuning(make_training):
    """Slicing before fine-tuning closes the trap of a 'pruned' channel whose beta learns on."""
    training = make_training(DDrop())
    plan = training.method.plan(training.ctx)
    kinds = [step.part if isinstance(step, Phase) else "prune" for step in plan]
    assert kinds == ["train", "prune", "finetune"]


def test_1g10_full_strength_after_the_ramp_counted_in_epochs(make_training):
    method = DDrop()
    training = make_training(method, train__epochs=30)
    ctx = training.ctx
    strengths = []
    for epoch in (0, 5, 9, 10, 29):
        ctx._now.epoch = epoch
        c = method.config
        strengths.append(annealing(c.schedule, ctx.epoch, c.ramp * ctx.recipe.train.epochs))
    assert strengths[0] == 1
    assert 0 < strengths[2] < strengths[1] < 1
    assert strengths[3] == pytest.approx(0, abs=1e-12)
    assert strengths[4] == strengths[3]


@pytest.mark.parametrize("importance", ["bn_gamma", "act_mean", "act_std", "apoz", "w_l2"])
def test_every_importance_works_with_and_without_batch_norm(make_training, importance):
    for network in (two_sites, three_sites):
        method = DDrop(DDrop.Config(importance=importance))
        training = make_training(method, arch=network())
        carry_out(training, (Phase(1),))
        scores = method.scores(training.ctx)
        assert {n: len(s) for n, s in scores.items()} == training.ctx.sites.widths
        assert all(s.isfinite().all() and s.max() > s.min() for s in scores.values())


def test_activation_statistics_are_what_they_say(make_training):
    method = DDrop(DDrop.Config(importance="act_mean", momentum=0.0))
    training = make_training(method)
    ctx = training.ctx
    ctx._model.network.train()
    with ctx._model.tracking():
        ctx._model.network(ctx.x)
    name, site = next(iter(ctx.sites.items()))
    with ctx.activations() as acts, torch.no_grad():
        ctx._model.network(ctx.x)
    assert torch.allclose(ctx.tracked[name], acts[name].abs().mean(dim=(0, 2, 3)), rtol=1e-4)
    assert ctx.tracked[name].shape == (site.n_units,)


def test_options_per_batch_masks_and_rescaling(make_training):
    training = make_training(DDrop(DDrop.Config(per_sample=False, rescale=True)))
    gates = gates_at_full_strength(training.ctx, training.method)
    for name, gate in gates.items():
        assert gate.shape == (1, training.ctx.sites[name].n_units)
        values = gate[gate > 0]
        assert (values >= 1).all()


def test_impossible_options_are_refused():
    for wrong in ({"p_min": 0.9, "p_max": 0.1}, {"p_max": 1.5}, {"amount": 2.0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DDrop.Config(**wrong)


def test_prunes_the_lowest_ranked_share_of_every_site(make_training):
    training = make_training(DDrop())
    ctx, method = training.ctx, training.method
    with torch.no_grad():
        for norm in (m for m in ctx._model.network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.1, 1)
    masks, scores = method.select(ctx, ctx.budget), method.scores(ctx)
    shares = [mask.float().mean().item() for mask in masks.values()]
    assert max(shares) - min(shares) < 0.15
    for name, mask in masks.items():
        assert scores[name][mask].min() >= scores[name][~mask].max()
