"""Soft masks by FISTA, with and without a critic; numbers are those of the tests (g) of section 4."""

import math

import numpy as np
import pytest
import torch
from support.networks import GREY, three_sites
from support.plans import carry_out, check_resume, prune, same, state_of
from support.plugins import known
from support.soft_masks import start
from support.whole_runs import verified, without_budget
from torch import nn

from bench.api import PRUNE, Phase
from bench.conformance import tiny_networks
from bench.conformance.tiny_networks import depth
from bench.errors import UsageError
from bench.measure import flops
from bench.pruning.gates import Gates
from bench.runs.method_factory import make_method
from bench.training.fista import fista
from methods.gal import Gal, SoftMaskFista

PLAN = (Phase(2, "finetune"), PRUNE, Phase(1, "finetune"))
BOTH = pytest.mark.parametrize("method", [SoftMaskFista, Gal])


# --- FISTA ---------------------------------------------------------------------------------------------------------


def soft(v, t):
    return np.sign(v) * np.maximum(np.abs(v) - t, 0)


def steps_by_definition(m, gradient_of, rate, lam, count):
    """FISTA with non-negativity as the specification writes it, float64: after each step the masks."""
    before, a, found = m.copy(), 1.0, []
    for _ in range(count):
        after = (1 + math.sqrt(1 + 4 * a**2)) / 2
        y = m + (a - 1) / after * (m - before)
        before, m, a = m, np.maximum(0, soft(y - rate * gradient_of(m), rate * lam)), after
        found.append(m)
    return found


def test_mr_4g1_steps_are_those_of_the_definition_and_reach_the_closed_form():
    """MR 4(g)1: of ``|m - c|^2 / 2 + lam |m|`` with m >= 0 the minimum is ``max(0, c - lam)``."""
    c = torch.tensor([-2.0, -0.1, 0.05, 0.3, 1.0, 4.0], dtype=torch.float64)
    alpha, rate, lam = 1.0, 0.1, 0.2
    m = before = torch.randn(6, generator=torch.Generator().manual_seed(0)).double()
    expected = steps_by_definition(m.numpy(), lambda m: m - c.numpy(), rate, lam, 200)
    for wanted in expected:
        new, alpha = fista(m, before, m - c, alpha, rate, lam)
        before, m = m, new
        assert (m >= 0).all()
        assert np.abs(m.numpy() - wanted).max() < 1e-12
    start = torch.rand(6).double()
    minimum, _ = fista(start, start, start - c, 1.0, 1.0, lam)  # a step of the whole way, without momentum
    assert torch.allclose(minimum, (c - lam).clamp(min=0), atol=1e-12)


def test_mr_4g1_masks_of_a_run_take_the_steps_of_the_definition(make_training, monkeypatch):
    """MR 4(g)1: gradients, rates and order are those of the run; masks never fall below zero."""
    training, gradients, found = start(make_training, lam=20.0), [], []
    step = SoftMaskFista.on_step_end

    def watched(self, ctx):
        gradients.append((ctx.rate, ctx.flat({n: m.grad for n, m in self.mask.items()}).double().numpy()))
        step(self, ctx)
        found.append(ctx.flat(self.scores(ctx)).double().numpy())

    monkeypatch.setattr(SoftMaskFista, "on_step_end", watched)
    carry_out(training, (Phase(2, "finetune"),))
    m = before = np.ones(40)
    a = 1.0
    for (rate, g), now in zip(gradients, found, strict=True):
        after = (1 + math.sqrt(1 + 4 * a**2)) / 2
        y = m + (a - 1) / after * (m - before)
        before, m, a = m, np.maximum(0, soft(y - rate * g, rate * 20.0)), after
        assert np.abs(now - m).max() < 1e-5
        m = now  # float32: no drift
    assert (m == 0).any() and (m >= 0).all()
    assert any(np.abs(g).max() > 0 for _, g in gradients)


def test_masks_step_every_so_many_steps(make_training):
    for every, times in ((1, 6), (2, 4), (3, 2), (20, 2)):
        training = start(make_training, mask_every=every)
        carry_out(training, (Phase(2, "finetune"),))  # of 3 steps each
        alpha = 1.0
        for _ in range(times):
            alpha = (1 + math.sqrt(1 + 4 * alpha**2)) / 2
        assert training.method.alpha.item() == pytest.approx(alpha)


# --- who gets which gradient ---------------------------------------------------------------------------------------


def test_mr_4g2_steps_of_masked_network_and_critic_do_not_reach_each_other(make_training, monkeypatch):
    """MR 4(g)2: the critic's step moves the critic alone, the network's step does not; no gradient is left."""
    training = start(make_training, Gal)
    critic, network, seen = training.method.critic, training.model.network, []
    objective = Gal.objective

    def watched(self, ctx, logits):
        before, weights = state_of(critic), state_of(network)
        for p in network.parameters():
            p.grad = None
        loss = objective(self, ctx, logits)
        assert not same(before, state_of(critic))
        assert all(torch.equal(weights[n], p) for n, p in network.named_parameters())
        assert all(p.grad is None for p in (*critic.parameters(), *network.parameters()))
        seen.append(state_of(critic))
        return loss

    def after(self, ctx):
        assert same(seen[-1], state_of(critic))
        assert all(p.grad is None for p in critic.parameters())
        assert all(p.grad is not None for p in network.parameters())

    monkeypatch.setattr(Gal, "objective", watched)
    monkeypatch.setattr(Gal, "on_backward_end", after)
    carry_out(training, (Phase(1, "finetune"),))
    assert len(seen) == 3
    assert same(seen[-1], state_of(critic))


@BOTH
def test_mr_4g2_teacher_is_the_trained_base_to_the_bit(make_training, method):
    """MR 4(g)2: parameters and statistics of the teacher are those of the base, which is trained."""
    training = start(make_training, method)
    base = state_of(training.model.network)
    carry_out(training, PLAN, prune)
    ((_, teacher),) = training.ctx._teachers._networks.values()
    assert same(state_of(teacher), base)
    assert not same(base, training.model.snapshots["init"]) and not same(base, state_of(three_sites()))


def bce(z, label):
    """Binary cross-entropy of logits by its definition, float64."""
    p = 1 / (1 + np.exp(-z))
    return -np.log(p if label else 1 - p).mean()


def test_losses_are_those_of_the_equations(make_training, monkeypatch):
    """``mu MSE + BCE(D(f_g), 1)`` after a step of the critic down its three terms, all by hand in float64."""
    training = start(make_training, Gal, mu=0.3)
    critic, found = training.method.critic, []
    minimize = type(training.ctx).minimize

    def output(z):
        for layer in critic:
            z = np.maximum(z, 0) if isinstance(layer, nn.ReLU) else z @ numbers(layer.weight).T + numbers(layer.bias)
        return z

    def watched(ctx, loss, name):
        base, student = numbers(ctx.teacher()), numbers(ctx._now.logits)
        by_hand = bce(output(base), 1) + bce(output(student), 0) + bce(output(student), 1)
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)
        minimize(ctx, loss, name)
        square = ((student - base) ** 2).mean()
        found.append(0.3 * square + bce(output(student), 1))

    monkeypatch.setattr(type(training.ctx), "minimize", watched)
    carry_out(training, (Phase(1, "finetune"),))
    assert training.curve[0]["train_loss"] == pytest.approx(np.mean(found), rel=1e-5)


def numbers(tensor):
    return tensor.detach().double().numpy()


def test_critic_without_adversary_loss_is_the_ablation(make_training):
    """Both have the same masks where the critic's term is constant: softmask_fista is gal without it."""
    one, two = start(make_training, Gal, critic_lr=1e-30), start(make_training)
    for p in one.method.critic.parameters():
        p.data.zero_()
    for each in (one, two):
        carry_out(each, (Phase(1, "finetune"),))
    assert same(state_of(one.model.network), state_of(two.model.network))


# --- folding, labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "units"),
    [
        *(("ones", "depth"), ("normal", "width")),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("ones", "width"), ("normal", "depth"))),
    ],
)
def test_mr_4g3_folded_network_is_the_masked_one(make_training, init, units, monkeypatch):
    """MR 4(g)3: to 1e-5, from either first masks, of channels and of blocks."""
    arch = depth("A", shape=GREY, num_classes=10) if units == "depth" else None
    training = start(make_training, mask_init=init, lam=10.0 if init == "ones" else 0.0, arch=arch, units=units)
    found = []
    end, method = SoftMaskFista.on_phase_end, training.method

    def watched(self, ctx):
        network, gates = ctx._model.network.eval(), Gates(ctx._model.network, ctx.sites)
        gates.set(self.scores(ctx))
        with torch.no_grad():
            masked = network(ctx.x)
            gates.remove()
            plain = network(ctx.x)
            end(self, ctx)
            found.extend([masked, network(ctx.x), plain])

    monkeypatch.setattr(SoftMaskFista, "on_phase_end", watched)
    carry_out(training, PLAN, prune)
    masked, folded, plain = found
    assert torch.allclose(masked, folded, atol=1e-5)
    assert not torch.allclose(masked, plain, atol=1e-3)
    masks = method.scores(training.ctx)
    assert all((mask >= 0).all() for mask in masks.values())


@BOTH
def test_mr_4g4_masks_without_labels_are_the_same(make_training, method):
    """MR 4(g)4: with all labels 0 in the search."""
    one, two = (start(make_training, method) for _ in range(2))
    object.__setattr__(two.data.train, "labels", torch.zeros_like(two.data.train.labels))
    for each in (one, two):
        carry_out(each, (Phase(2, "finetune"), PRUNE), prune)
    assert same(one.model.sliced_by, two.model.sliced_by)
    assert same(state_of(one.model.network), state_of(two.model.network))


# --- as a run ------------------------------------------------------------------------------------------------------


@BOTH
def test_resumes_to_the_bit(make_training, tmp_path, method):
    """The critic and its momentum, masks and their last values, alpha."""
    whole = check_resume(lambda checkpoint: start(make_training, method, checkpoint), PLAN, tmp_path / "c.pt")
    own = ["own"] if method is Gal else []
    assert [extra["what"] for extra in whole.extras()] == ["objective", *own, "teacher"]


def test_critic_costs_three_times_its_products(make_training):
    training = start(make_training, Gal)
    carry_out(training, (Phase(2, "finetune"),))
    products = 10 * 128 + 128 * 256 + 256 * 128 + 128
    each, seen = flops.count(three_sites(), GREY).total, training.examples
    assert training.model.ledger.extras == {
        ("teacher", "base"): (seen, each * seen),
        ("own", "critic"): (3 * seen, 9 * products * seen),  # the base's logits, the student's twice
    }


def test_matched_keeps_the_largest_and_native_what_is_above_zero(make_training):
    training = start(make_training)
    ctx, method = training.ctx, training.method
    for k, mask in enumerate(method.mask.values()):
        mask.data = torch.arange(len(mask)) - 5.0 + 0.1 * k
    kept = method.select(ctx, ctx.budget)
    masks = method.scores(ctx)
    least = min(masks[n][kept[n]].min() for n in kept)
    assert all((masks[n][~kept[n]] <= least + 1e-6).all() for n in kept)
    ctx._budget = None
    native = method.select(ctx, ctx.budget)
    assert [int(m.sum()) for m in native.values()] == [6, 11, 7]
    for mask in method.mask.values():
        mask.data = torch.zeros(len(mask))
    assert all(m.all() for m in method.select(ctx, ctx.budget).values())  # all are the largest


@pytest.mark.slow
def test_run_of_blocks_is_verified(make_run):
    with known(tiny_networks.__file__):
        what = ("gal", "check_depth", "tiny8")
        done = verified(make_run(*what, finetune__epochs=4, units="depth", keep=0.7, options={"mask_every": "2"}))
    assert done.structure.units_after < done.structure.units_before == 5


@pytest.mark.parametrize("name", ["softmask_fista", "gal"])
def test_run_is_verified(name, make_run):
    done = verified(make_run(name, "two_layers", "tiny8", finetune__epochs=4, options={"mask_every": "2"}))
    assert done.training.epochs == 5 and done.structure.units_after < done.structure.units_before
    assert set(done.curve.logged) == {"zero"}
    native = verified(without_budget(make_run(name, "two_layers", "tiny8", finetune__epochs=4)))
    assert native.structure.units_after == native.structure.units_before  # nothing reaches zero in so few steps


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("mu", "-1", "mu -1.0: 0 or more"),
        ("lam", "-1", "lam -1.0: 0 or more"),
        ("search", "1", "search 1.0: above 0 and below 1"),
        ("search", "0", "search 0.0: above 0 and below 1"),
        ("mask_every", "0", "mask_every 0: 1 or more"),
    ],
)
def test_bad_options_are_answered_with_the_range(option, value, said):
    for name in ("gal", "softmask_fista"):
        with pytest.raises(UsageError, match=said):
            make_method(name, {option: value})
    with pytest.raises(UsageError, match=r"critic_lr 0\.0: above 0"):
        make_method("gal", {"critic_lr": "0"})
