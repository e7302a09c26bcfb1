"""Blocks in a run: gated, masked, looked at and cut; everything in a context follows (B3)."""

import pytest
import torch
from support.networks import hooks_of
from support.plans import carry_out, check_resume, prune, same, state_of

from bench.api import PRUNE, Method, Phase
from bench.conformance.tiny_networks import SHAPE, depth
from bench.errors import RunFailed
from bench.measure import flops


def start(make_training, method=None, units="both", **settings):
    torch.manual_seed(0)
    return make_training(method, arch=depth("A", num_classes=10), shape=SHAPE, units=units, **settings)


@pytest.fixture
def ctx(make_training):
    return start(make_training).ctx


def bits(text):
    return torch.tensor([bit == "1" for bit in text])


def half(ctx, **blocks):
    """Masks of half the channels of each site, and of some blocks: ``half(ctx, b1="101")``."""
    masks = {n: torch.arange(s.n_units) % 2 == 0 for n, s in ctx.sites.items()}
    return masks | {name.removeprefix("b"): bits(text) for name, text in blocks.items()}


def logits(ctx):
    with ctx.probe():
        return ctx.forward(ctx.x)


def test_a_network_without_blocks_computes_what_the_masked_one_would(ctx):
    masks = half(ctx, b1="101", b5="01")
    masked = ctx.evaluate({n: m[None] for n, m in masks.items()})[0]
    dense = ctx._model.network
    ctx.shrink(masks)
    torch.testing.assert_close(logits(ctx), masked, rtol=1e-4, atol=1e-5)
    assert ctx.sites.widths == {"1.body.0": 2, "3.body.0": 2, "4.body.0": 4, "6.body.0": 4, "1": 2, "5": 1}
    assert [block.name for site in ctx.sites.values() for block in site.blocks] == ["1", "3", "6"]
    assert ctx.masks.keys() == ctx.sites.keys()
    assert ctx._model.macs == flops.count(ctx._model.network, SHAPE).total
    assert ctx.share(ctx.sites.widths) == ctx._model.macs / flops.count(dense, SHAPE).total
    assert not hooks_of(ctx._model.network) and not hooks_of(dense)


def test_second_slice_without_further_blocks_is_one_slice(make_training):
    """B3: masks over the dense network, snapshots, numbers of units and tracked statistics follow both."""
    once, twice = (start(make_training).ctx for _ in range(2))
    numbers = twice._model.per_unit.add("own", twice.sites.widths, 1.0, twice.device)
    twice._model.track("2.body.0", lambda a: a.mean(dim=(0, 2, 3)), 0.5)
    twice._model.track("3.body.0", lambda a: a.mean(dim=(0, 2, 3)), 0.5)
    twice.shrink(half(twice, b1="101", b5="11"))
    assert numbers.keys() == twice.sites.keys() and list(twice.tracked) == ["3.body.0"]
    twice.shrink(half(twice, b1="10", b5="01"))
    assert {n: len(v) for n, v in numbers.items()} == twice.sites.widths and not twice.tracked
    assert twice._model.sliced_by.keys() == once.sites.keys()
    assert [twice._model.sliced_by[n].tolist() for n in ("1", "5")] == [[True, False, False], [False, True]]
    assert not any(twice._model.sliced_by[f"{n}.body.0"].any() for n in (2, 3, 5))
    once._model.slice(twice._model.sliced_by)
    assert same(state_of(once._model.network), state_of(twice._model.network))
    assert same(once._model.snapshots["init"], twice._model.snapshots["init"])
    assert once.units_left == twice.units_left == (1 + 1 + 8 // 4 + 8 // 4 + 4 // 4) / (4 * 3 + 8 * 3 + 5)
    torch.testing.assert_close(logits(once), logits(twice))


def test_last_block_of_a_site_takes_the_site_along(ctx):
    ctx.shrink(ctx.sites.ones() | {"5": bits("00")})
    assert list(ctx.sites) == ["1.body.0", "2.body.0", "3.body.0", "4.body.0", "1"]
    assert ctx._model.macs == flops.count(ctx._model.network, SHAPE).total
    assert ctx.rank({n: torch.rand(w) for n, w in ctx.sites.widths.items()}, "layer").keys() == ctx.sites.keys()


class ShrinksTwice(Method):
    """Random blocks and channels go at the start of its second and third phase; what is left of the budget later."""

    kinds = ("conv", "linear", "block")

    def plan(self, ctx):
        return (Phase(1), Phase(1), Phase(1), PRUNE, Phase(1, "finetune"))

    def prepare(self, ctx):
        self.seen = ctx.per_unit("seen")

    def on_step_end(self, ctx):
        for name, numbers in self.seen.items():
            numbers += torch.rand(len(numbers), generator=ctx.rng) * ctx.masks[name]

    def on_phase_start(self, ctx):
        if ctx.phase:
            ctx.shrink(
                ctx.sites.settled(ctx.rank(self.seen, "global") if ctx.phase == 2 else half(ctx, b1="110", b5="11"))
            )

    def scores(self, ctx):
        return dict(self.seen)


def test_stopped_and_resumed_equals_uninterrupted(make_training, tmp_path):
    """B3: with blocks that leave in two steps before the prune."""
    plan = ShrinksTwice().plan(None)
    whole = check_resume(
        lambda file: start(make_training, ShrinksTwice(), checkpoint=file, keep=0.6), plan, tmp_path / "c.pt"
    )
    gone = [name for name, mask in whole.model.sliced_by.items() if not mask.any()]
    assert "3.body.0" in gone and whole.model.sliced_by["1"].sum() < 3
    costs = whole.model.ledger.costs
    assert costs.macs(costs.array(whole.model.sliced_by)) == flops.count(whole.model.network, SHAPE).total


class Masks(Method):
    """Masks a block, and half the channels of all sites, from its second epoch on."""

    def on_epoch_end(self, ctx):
        if ctx.epoch == 0:
            ctx.masks = half(ctx, b1="101", b5="11")
            self.before = state_of(ctx._model.network)


def test_a_masked_block_keeps_all_its_parameters(make_training):
    training = start(make_training, Masks(), train__epochs=3, weight_decay=0.1)
    carry_out(training, (Phase(3),))
    before, after = training.method.before, state_of(training.model.network)
    of_block = [n for n in before if n.startswith("2.") and "running" not in n and "num_batches" not in n]
    assert len(of_block) == 6
    assert all(torch.equal(before[n], after[n]) for n in of_block)
    assert not torch.equal(before["1.body.3.weight"], after["1.body.3.weight"])
    left = 2 * 2 + 4 * 3 + 2 + 2
    assert training.curve[-1]["units_left"] == left / (4 * 3 + 8 * 3 + 5)


def test_pruned_network_is_the_masked_one(make_training):
    training = start(make_training, ShrinksTwice(), keep=0.7)
    masks = training.ctx.select() if training.ctx.sites else {}
    masked = training.ctx.evaluate({n: m[None] for n, m in masks.items()})[0]
    prune(training)
    torch.testing.assert_close(logits(training.ctx), masked, rtol=1e-4, atol=1e-5)


def test_blocks_are_looked_at_one_by_one(ctx):
    """``block_io``: what each block reads and gives, averaged over the images."""
    found = ctx.mean(lambda site, both: (both[0] - both[1]).square().mean(), "block_io")
    assert {name: tuple(value.shape) for name, value in found.items()} == {"1": (3,), "5": (2,)}
    network, total, seen = ctx._model.network.eval(), torch.zeros(5), 0
    with torch.no_grad():
        for x, _ in ctx.batches():
            stream = [network[:k](x) for k in range(1, 8)]
            for at, k in enumerate((0, 1, 2, 4, 5)):
                total[at] += len(x) * (stream[k] - stream[k + 1]).square().mean()
            seen += len(x)
    torch.testing.assert_close(torch.cat([found["1"], found["5"]]), total / seen)
    assert not hooks_of(network)


def test_blocks_have_no_activation(ctx):
    with ctx.probe(), ctx.activations() as found:
        ctx.forward(ctx.x)
    assert found.keys() == {name for name, site in ctx.sites.items() if not site.blocks}
    assert ctx.mean(lambda site, a: a.flatten(2).mean(dim=(0, 2))).keys() == found.keys()
    for call in (lambda: ctx.insert("1", torch.nn.ReLU()), lambda: ctx.track("5", lambda a: a, 0.9)):
        with pytest.raises(RunFailed, match=r"at site .: its units are blocks, which have no activation"):
            call()


def test_loss_without_each_block(ctx):
    found, x = ctx.leave_one_out(), list(ctx.batches())
    assert {n: len(v) for n, v in found.items()} == ctx.sites.widths
    sliced = ctx.sites.slice(ctx._model.network, ctx.sites.ones() | {"5": bits("10")}).eval()
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(sliced(images), y, reduction="sum") for images, y in x]
    assert float(found["5"][1]) == pytest.approx(float(sum(losses)) / sum(len(y) for _, y in x), rel=1e-4)


def test_frozen_blocks_may_leave(make_training):
    training = start(make_training)
    training.now.hooks = ("on_phase_end",)
    training.ctx.freeze("2")
    assert "2.body.0" in training.model.frozen.modules
    training.ctx.shrink(training.ctx.sites.ones() | {"1": bits("101")})
    assert "1.body.0" in training.model.frozen.modules and "2.body.0" not in training.model.frozen.modules
    macs = training.model.ledger.macs_of_frozen(training.model.network)
    inside = flops.count(training.model.network, SHAPE).by_module
    assert macs == sum(sum(inside[name].values()) for name in ("0", "1"))
