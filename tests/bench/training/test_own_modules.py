"""Modules of a method's own, and numbers of units that get a gradient."""

import pytest
import torch
from support.networks import GREY, half_masks, three_sites
from support.plans import carry_out, check_resume, prune, same, state_of
from torch import nn

from bench.api import PRUNE, Method, Phase, fista_step
from bench.errors import RunFailed
from bench.spec.digest import derive_seed

SGD = torch.optim.SGD


def start(make_training, method=None, **settings):
    torch.manual_seed(0)
    return make_training(method, arch=three_sites(), shape=GREY, **settings)


class Guesses(Method):
    """A module that guesses the logits' sign and is trained with Adam; the network learns what it says."""

    active = "always"

    def prepare(self, ctx):
        self.judge = ctx.own("judge", lambda: nn.Sequential(nn.Linear(10, 3), nn.Linear(3, 1)), torch.optim.Adam, 0.01)
        self.__dict__["first"] = state_of(self.judge)

    def penalty(self, ctx):
        ctx.minimize(self.judge(ctx.logits.detach()).square().mean(), "judge")
        return 0.01 * self.judge(ctx.logits).mean()


def test_own_module_is_made_from_the_seed_and_nothing_else(make_training):
    one = start(make_training, Guesses()).method.first
    torch.manual_seed(99)
    before = torch.get_rng_state()
    two = make_training(Guesses(), arch=three_sites(), shape=GREY)
    assert same(one, two.method.first)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "own", "judge"))
        assert torch.equal(nn.Linear(10, 3).weight, one["0.weight"])
    torch.set_rng_state(before)


def test_own_module_and_its_optimizer_resume_to_the_bit(make_training, tmp_path):
    plan = (Phase(2), PRUNE, Phase(2, "finetune"))
    whole = check_resume(lambda c: start(make_training, Guesses(), checkpoint=c), plan, tmp_path / "c.pt")
    assert not same(whole.method.first, state_of(whole.method.judge))
    products, seen = 10 * 3 + 3, whole.examples
    assert whole.model.ledger.extras == {("own", "judge"): (2 * seen, 6 * products * seen)}


def test_minimize_moves_the_module_alone(make_training):
    training = start(make_training, Guesses())
    ctx, network = training.ctx, training.model.network
    before, judge = state_of(network), training.method.judge
    with ctx._now.during("on_batch_start"):
        ctx.minimize(judge(network(ctx.x)).square().mean(), "judge")
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in network.named_parameters())
    assert not same(training.method.first, state_of(judge))
    assert all(p.grad is None for p in judge.parameters())


def test_what_cannot_be_minimized_is_refused_in_one_line(make_training):
    training = start(make_training, Guesses())
    ctx, judge = training.ctx, training.method.judge
    loss = judge(torch.ones(2, 10)).mean()
    with pytest.raises(RunFailed, match=r"^ctx\.minimize in no hook: only on_batch_start, objective, penalty, "):
        ctx.minimize(loss, "judge")
    with ctx._now.during("on_epoch_end"), pytest.raises(RunFailed, match=r"^ctx\.minimize in on_epoch_end: only"):
        ctx.minimize(loss, "judge")
    with ctx._now.during("penalty"):
        with pytest.raises(RunFailed, match=r"^ctx\.minimize: no module 'critic'; ctx\.own makes one in prepare$"):
            ctx.minimize(loss, "critic")
        for other in (torch.ones(()), next(training.model.network.parameters()).sum()):
            with pytest.raises(RunFailed, match=r"^ctx\.minimize: the loss has no gradient for 'judge'$"):
                ctx.minimize(other, "judge")


def test_own_module_is_made_in_prepare_from_weights_of_its_own(make_training):
    ctx = start(make_training).ctx
    layer = ctx._model.network[0]
    with ctx._now.during("prepare"):
        for factory, said in (
            (lambda: 3, "the factory made int, not a module"),
            (lambda: nn.Sequential(layer), "it shares a parameter with the network"),
        ):
            with pytest.raises(RunFailed, match=rf"^ctx\.own\('x'\): {said}$"):
                ctx.own("x", factory, SGD, 0.1)
        ctx.own("x", lambda: nn.Linear(1, 1), SGD, 0.1)
        with pytest.raises(RunFailed, match=r"^ctx\.own\('x'\): it exists; choose another name$"):
            ctx.own("x", lambda: nn.Linear(1, 1), SGD, 0.1)
    with ctx._now.during("on_step_end"), pytest.raises(RunFailed, match=r"^ctx\.own in on_step_end: only prepare"):
        ctx.own("y", lambda: nn.Linear(1, 1), SGD, 0.1)


class TrainsOnValidation(Guesses):
    def penalty(self, ctx):
        x, _ = next(ctx.batches("val"))
        ctx.minimize(self.judge(x.flatten(1)[:, :10]).square().mean(), "judge")
        return 0.0


def test_own_module_is_not_trained_on_validation_images(make_training):
    with pytest.raises(RunFailed, match="passes validation images with a gradient in penalty"):
        carry_out(start(make_training, TrainsOnValidation()), (Phase(1),))


# --- trainable numbers of units ------------------------------------------------------------------------------------


class SoftMasks(Method):
    """Learns a soft mask for each unit by plain steps; cuts at the ends of two phases."""

    active = "always"

    def prepare(self, ctx):
        self.masks = ctx.per_unit("masks", 1.0, trainable=True)

    def on_batch_start(self, ctx):
        ctx.gate(self.masks)

    def on_step_end(self, ctx):
        """In place, or by other tensors."""
        for name, mask in self.masks.items():
            new = mask.detach() - 0.5 * mask.grad
            if ctx.step % 2:
                self.masks[name] = new
            else:
                mask.data = new

    def on_epoch_end(self, ctx):
        ctx.log(masks=sum(m.detach().sum() for m in self.masks.values()))

    def on_phase_end(self, ctx):
        if ctx.phase < 2:
            ctx.shrink(half_masks(ctx.sites, seed=ctx.phase))


PLAN = (Phase(2), Phase(1), PRUNE, Phase(2, "finetune"))


def test_trainable_numbers_follow_two_shrinks_the_prune_and_every_stop(make_training, tmp_path):
    whole = check_resume(lambda c: start(make_training, SoftMasks(), checkpoint=c), PLAN, tmp_path / "c.pt")
    masks = whole.method.masks
    assert {n: len(m) for n, m in masks.items()} == whole.ctx.sites.widths
    assert all(m.requires_grad and m.is_leaf and not torch.equal(m, torch.ones_like(m)) for m in masks.values())
    assert len({entry["masks"] for entry in whole.curve}) == 5


@pytest.mark.parametrize("smaller", [False, True])
def test_gradient_of_soft_masks_is_a_finite_difference(make_training, smaller):
    """In double precision, also after a shrink; and the optimizer has no part in them."""
    smooth = nn.Sequential(*(nn.Softplus() if isinstance(m, nn.ReLU) else m for m in three_sites()))
    training = make_training(SoftMasks(), arch=smooth, shape=GREY)
    ctx, method = training.ctx, training.method
    if smaller:
        ctx.shrink(half_masks(ctx.sites))
    network = training.model.network.double().eval()
    x, y = ctx.x.double(), ctx.y
    values = {n: 0.5 + torch.rand(len(m), dtype=torch.float64) for n, m in method.masks.items()}
    for name in method.masks:
        method.masks[name] = values[name].clone()
    training.model.per_unit.start_step()

    def loss():
        ctx.gate(method.masks)
        return nn.functional.cross_entropy(network(x), y)

    loss().backward()
    gradients = {n: m.grad.clone() for n, m in method.masks.items()}
    for name, mask in method.masks.items():
        for unit in (0, len(mask) - 1):
            differences = []
            for step in (1e-5, -1e-5):
                mask.data[unit] = values[name][unit] + step
                differences.append(loss().item())
            mask.data[unit] = values[name][unit]
            expected = (differences[0] - differences[1]) / 2e-5
            assert gradients[name][unit].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_numbers_start_as_a_copy_of_what_is_given(make_training):
    ctx = start(make_training).ctx
    first = ctx.draw(normal=True)
    one, two = ctx.per_unit("one", first, trainable=True), ctx.per_unit("two", first)
    assert same({n: m.detach() for n, m in one.items()}, first) and same(two, first)
    assert not any(value.requires_grad for value in (*first.values(), *two.values()))
    for name, value in first.items():
        value.zero_()
        assert one[name].any() and two[name].any()


def test_fista_steps_go_to_exactly_zero_where_the_gradient_is_small():
    """The minimum of ``|m - c|^2 / 2 + lam |m|`` with m >= 0 is ``max(0, c - lam)``, unit by unit."""
    wanted = {"a": torch.tensor([2.0, 0.1, -1.0]), "b": torch.tensor([0.3])}
    masks, alpha = {n: torch.ones_like(c) for n, c in wanted.items()}, torch.ones(())
    previous = {n: m.clone() for n, m in masks.items()}
    for step in range(200):
        for name, c in wanted.items():
            masks[name].requires_grad_(True).grad = masks[name].detach() - c
        fista_step(masks, previous, alpha, 0.3, 0.2)
        assert not masks["a"].requires_grad
        if not step:
            assert alpha == pytest.approx((1 + 5**0.5) / 2)
    for name, c in wanted.items():
        assert torch.allclose(masks[name], (c - 0.2).clamp(min=0), atol=1e-3)
    assert masks["a"][1:].tolist() == [0, 0]
    with pytest.raises(ValueError, match="the numbers of site a have no gradient"):
        fista_step(masks, previous, alpha, 0.3, 0.2)


def test_plain_numbers_have_no_gradient_and_masks_no_step_of_the_recipe(make_training):
    class Both(SoftMasks):
        def prepare(self, ctx):
            super().prepare(ctx)
            self.plain = ctx.per_unit("plain", 1.0)

        def on_step_end(self, ctx):
            assert all(m.grad is not None and (m == 1).all() for m in self.masks.values())
            assert not any(p.requires_grad for p in self.plain.values())

        def on_phase_end(self, ctx):
            pass

    carry_out(start(make_training, Both(), weight_decay=0.1), (Phase(1), PRUNE, Phase(1, "finetune")), prune)
