"""What a method can rely on: probing leaves no trace, masks hold, candidates are exact, snapshots go back."""

import re
from dataclasses import replace

import pytest
import torch
from support.networks import hooks_of, in_forwards
from support.paths import ROOT
from support.plans import carry_out
from torch import nn

from bench.api import Phase
from bench.data.loading import TrainingData
from bench.errors import RunFailed
from bench.training import masked_model

DOCUMENT = ROOT / "docs" / "add_a_method.md"


def test_public_names_are_the_documented_ones(make_ctx):
    table = DOCUMENT.read_text().partition("### The context")[2].partition("\n## ")[0]
    documented = {name for line in table.splitlines() for name in re.findall(r"ctx\.(\w+)", line.split(" | ")[0])}
    assert documented == {name for name in dir(make_ctx()) if not name.startswith("_")}


def test_former_name_of_prune_worst_still_works(make_ctx):
    ctx = make_ctx(arch="mlp_40_40")
    scores = ctx.draw()
    assert all(
        map(torch.equal, ctx.drop(scores, 0.2, "layer").values(), ctx.prune_worst(scores, 0.2, "layer").values())
    )


@pytest.mark.parametrize("name", ["network", "optimizer", "forwarded", "snapshots", "anything"])
def test_other_names_can_be_neither_read_nor_set(make_ctx, name):
    ctx = make_ctx()
    with pytest.raises(AttributeError, match=rf"a context has no '{name}': docs/add_a_method\.md lists"):
        getattr(ctx, name)
    with pytest.raises(AttributeError, match=rf"ctx\.{name} cannot be set: .* only ctx\.masks can be assigned"):
        setattr(ctx, name, 0)


@pytest.mark.parametrize("name", ["recipe", "budget", "x", "epoch", "curve", "sites", "rng"])
def test_what_the_run_decides_cannot_be_set(make_ctx, name):
    ctx = make_ctx()
    with pytest.raises(AttributeError, match="cannot be set"):
        setattr(ctx, name, getattr(ctx, name))


def state_of(ctx):
    return {k: v.clone() for k, v in ctx._model.network.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[k], two[k]) for k in one)


def some_masks(ctx, share=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(s.n_units, generator=generator) < share for n, s in ctx.sites.items()}
    for mask in masks.values():
        mask[0] = True
    return masks


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_probe_moves_nothing(make_ctx, batch_statistics):
    ctx = make_ctx()
    ctx._model.network.train()
    before, rng = state_of(ctx), torch.get_rng_state()
    modes = [m.training for m in ctx._model.network.modules()]
    with ctx.probe(batch_statistics=batch_statistics):
        logits = ctx.forward(ctx.x)
        torch.rand(3)
    assert not logits.requires_grad
    assert same(before, state_of(ctx))
    assert torch.equal(rng, torch.get_rng_state())
    assert modes == [m.training for m in ctx._model.network.modules()]


def test_probe_with_batch_statistics_is_the_training_forward(make_ctx):
    ctx = make_ctx()
    with ctx.probe(batch_statistics=True):
        probed = ctx.forward(ctx.x)
    ctx._model.network.train()
    assert torch.allclose(probed, ctx._model.network(ctx.x), atol=1e-6)


def test_probe_gives_gradients_back(make_ctx):
    ctx = make_ctx()
    name, site = next(iter(ctx.sites.items()))
    inserted = nn.Conv2d(site.n_units, site.n_units, 1)
    ctx.insert(name, inserted)
    parameters = [next(ctx._model.network.parameters()), inserted.weight]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    with ctx.probe(gradients=True):
        ctx.forward(ctx.x).sum().backward()
        assert not any(torch.equal(p.grad, torch.ones_like(p)) for p in parameters)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in parameters)
    assert inserted.bias.grad is None


def test_forward_with_a_gradient_costs_three(make_ctx):
    ctx = make_ctx()
    batch = len(ctx.x)
    with ctx.probe(gradients=True):
        ctx.forward(ctx.x)
        assert in_forwards(ctx) == 3 * batch
        with ctx.probe():
            ctx.forward(ctx.x)
        assert in_forwards(ctx) == 4 * batch
        ctx.forward(ctx.x)
    ctx.forward(ctx.x)
    assert in_forwards(ctx) == 10 * batch


def test_candidates_in_one_forward_equal_candidates_one_by_one(make_ctx, monkeypatch):
    ctx = make_ctx()
    population = [some_masks(ctx, seed=seed) for seed in range(5)]
    stacked = {name: torch.stack([m[name] for m in population]) for name in ctx.sites}
    before = state_of(ctx)
    together = ctx.evaluate(stacked)
    assert together.shape == (5, len(ctx.x), 10)
    monkeypatch.setattr(masked_model, "AT_ONCE", len(ctx.x) * 2)
    assert torch.allclose(together, ctx.evaluate(stacked), atol=1e-6)
    for k, masks in enumerate(population):
        with ctx.probe(), ctx.masked(masks):
            assert torch.allclose(ctx.forward(ctx.x), together[k], atol=1e-5)
    ones = {name: torch.ones(1, s.n_units) for name, s in ctx.sites.items()}
    with ctx.probe():
        assert torch.allclose(ctx.evaluate(ones)[0], ctx.forward(ctx.x), atol=1e-6)
    assert same(before, state_of(ctx))


def test_masked_ends_with_its_block(make_ctx):
    ctx = make_ctx()
    ctx._model.network.eval()
    free = ctx._model.network(ctx.x)
    with ctx.masked(some_masks(ctx)):
        assert not torch.allclose(ctx._model.network(ctx.x), free)
    assert torch.equal(ctx._model.network(ctx.x), free)


def test_batch_gates_end_with_the_step_and_masks_do_not(make_ctx):
    ctx = make_ctx()
    ctx._model.network.eval()
    free = ctx._model.network(ctx.x)
    ctx.gate({name: torch.zeros(len(ctx.x), s.n_units) for name, s in ctx.sites.items()})
    assert not torch.allclose(ctx._model.network(ctx.x), free)
    ctx._model.after_step()
    assert torch.equal(ctx._model.network(ctx.x), free)
    ctx.masks = some_masks(ctx)
    masked = ctx._model.network(ctx.x)
    ctx._model.after_step()
    assert torch.equal(ctx._model.network(ctx.x), masked)
    assert not torch.allclose(masked, free)


@pytest.mark.parametrize("arch", ["resnet20", "mlp_40_40"])
def test_masked_units_stay_as_they_are_under_momentum_and_decay(make_training, arch):
    training = make_training(arch=arch, weight_decay=0.1)
    ctx = training.ctx
    carry_out(training, (Phase(1),))
    ctx.masks = masks = some_masks(ctx)
    before = state_of(ctx)
    training.position = (0, 0)
    carry_out(training, (Phase(2),))
    for name, site in ctx.sites.items():
        for layer in (*site.producers, *site.norms):
            for kind in ("weight", "bias"):
                if f"{layer}.{kind}" in before:
                    old, new = before[f"{layer}.{kind}"], ctx._model.network.state_dict()[f"{layer}.{kind}"]
                    assert torch.equal(old[~masks[name]], new[~masks[name]])
                    assert not torch.equal(old[masks[name]], new[masks[name]])


def test_masked_training_equals_training_the_slice(make_training):
    """The kept weights move as in a network that never had the others."""
    training = make_training(arch="mlp_40_40", weight_decay=0.01, precision="fp32")
    ctx = training.ctx
    masks = some_masks(ctx)
    sliced = ctx.sites.slice(ctx._model.network, masks)
    ctx.masks = masks
    carry_out(training, (Phase(1),))
    other = make_training(arch=sliced, weight_decay=0.01, precision="fp32")
    carry_out(other, (Phase(1),))
    again = ctx.sites.slice(ctx._model.network, masks).state_dict()
    for name, value in other.model.network.state_dict().items():
        assert torch.allclose(value, again[name], atol=1e-5), name


def test_masks_are_checked(make_ctx):
    ctx = make_ctx()
    with pytest.raises(RunFailed, match="no mask for site"):
        ctx.masks = {}
    with pytest.raises(RunFailed, match=r"not torch.bool"):
        ctx.masks = {n: torch.ones(s.n_units) for n, s in ctx.sites.items()}


@pytest.mark.parametrize("split", ["test", "data", "_data"])
def test_there_is_no_way_to_another_split(make_ctx, split):
    with pytest.raises(RunFailed, match="'train' and 'val' only"):
        next(make_ctx().batches(split))


def test_batches_cover_the_split_once(make_ctx, make_data):
    ctx = make_ctx(batch_size=40)
    found = list(ctx.batches("train"))
    assert [len(y) for _, y in found] == [40, 40, 16]
    seen, whole = (map(torch.cat, zip(*batches)) for batches in (found, make_data().train.batches(40)))
    seen, whole = (sorted(torch.cat([x.flatten(1), y[:, None]], dim=1).tolist()) for x, y in (seen, whole))
    assert seen == whole
    assert len(list(ctx.batches("val", limit=1))) == 1


@pytest.fixture
def by_class(make_ctx):
    """A context of 400 training and 80 validation images that lie class by class, four classes."""

    def make(seed=0):
        def part(images, each):
            pixels, labels = images.pixels[:1].expand(4 * each, -1, -1, -1), torch.arange(4).repeat_interleave(each)
            return replace(images, pixels=pixels, labels=labels)

        ctx = make_ctx(arch="mlp_40_40", batch_size=64)
        ctx._data, ctx._seed = TrainingData(part(ctx._data.train, 100), part(ctx._data.val, 20), {}), seed
        return ctx

    return make


@pytest.mark.parametrize(("split", "least"), [("train", 8), ("val", 8)])
def test_images_that_lie_class_by_class_come_mixed(by_class, split, least):
    """16 images of each class are expected in a batch of 64; less than 8 have a chance of 1 in 200."""
    whole = [y for _, y in by_class().batches(split) if len(y) == 64]
    assert all(y.bincount(minlength=4).min() >= least for y in whole)
    first = next(by_class().batches(split, limit=1))[1]
    assert torch.equal(first, whole[0])


def test_the_order_of_batches_is_the_seeds_in_every_pass(by_class):
    ctx = by_class()
    torch.manual_seed(1)
    first = torch.cat([y for _, y in ctx.batches()])
    torch.rand(3)
    ctx.draw()
    assert torch.equal(torch.cat([y for _, y in ctx.batches()]), first)
    assert torch.equal(torch.cat([y for _, y in by_class().batches()]), first)
    assert not torch.equal(torch.cat([y for _, y in by_class(seed=1).batches()]), first)


def test_activations_are_what_the_consumer_reads(make_ctx):
    ctx = make_ctx()
    ctx._model.network.eval()
    seen = {}
    for name, site in ctx.sites.items():
        layer = ctx._model.network.get_submodule(site.consumers[0].layer)
        layer.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, args[0]))
    masks = some_masks(ctx)
    ctx.masks = masks
    with ctx.activations() as found, ctx.probe():
        ctx.forward(ctx.x)
    for name, activation in found.items():
        assert torch.allclose(activation, seen[name])
        assert activation[:, ~masks[name]].abs().max() == 0 if (~masks[name]).any() else True
    assert set(found) == set(ctx.sites)


def test_inserted_modules_act_and_go(make_ctx):
    ctx = make_ctx()
    ctx._model.network.eval()
    free = ctx._model.network(ctx.x)

    class Zero(nn.Module):
        def forward(self, a):
            return a * 0

    for name in ctx.sites:
        ctx.insert(name, Zero())
    with_zero = ctx._model.network(ctx.x)
    zeros = {name: torch.zeros(1, s.n_units) for name, s in ctx.sites.items()}
    ctx._model.remove_hooks()
    assert torch.allclose(with_zero, ctx.evaluate(zeros)[0], atol=1e-6)
    ctx._model.remove_hooks()
    assert torch.equal(ctx._model.network(ctx.x), free)
    assert not hooks_of(ctx._model.network)


def test_snapshot_and_rewind(make_training):
    training = make_training()
    ctx = training.ctx
    init = state_of(ctx)
    carry_out(training, (Phase(1),))
    ctx.snapshot("early")
    early = state_of(ctx)
    training.position = (0, 0)
    carry_out(training, (Phase(1),))
    assert not same(early, state_of(ctx))
    ctx.rewind("early")
    assert same(early, state_of(ctx))
    ctx.rewind("init")
    assert same(init, state_of(ctx))
    masks = some_masks(ctx)
    ctx._model.slice(masks)
    ctx.rewind("early")
    ctx_early = state_of(ctx)
    ctx.rewind("init")
    assert not same(ctx_early, state_of(ctx))
    with pytest.raises(RunFailed, match="no snapshot 'x'; there are early, init and fresh"):
        ctx.rewind("x")


def test_fresh_weights_depend_on_the_seed_and_the_phase_only(make_ctx):
    one, two = make_ctx(), make_ctx()
    torch.rand(5)
    rng = torch.get_rng_state()
    one.rewind("fresh")
    assert torch.equal(rng, torch.get_rng_state())
    two.rewind("fresh")
    assert same(state_of(one), state_of(two))
    assert not same(state_of(one), one._model.snapshots["init"])
    one._now.phase = 1
    one.rewind("fresh")
    assert not same(state_of(one), state_of(two))


def test_scores_are_checked(make_ctx):
    ctx = make_ctx()
    good = {n: torch.rand(s.n_units) for n, s in ctx.sites.items()}
    name = next(iter(good))
    ctx.rank(good, "global")
    with pytest.raises(RunFailed, match="not finite"):
        ctx.rank(good | {name: torch.full((16,), float("inf"))}, "layer")
    with pytest.raises(RunFailed, match=r"have shape \[3\], not \[16\]"):
        ctx.rank(good | {name: torch.rand(3)}, "layer")


def test_running_statistic(make_ctx):
    ctx = make_ctx()
    name = next(iter(ctx.sites))
    ctx.track(name, lambda a: a.mean(dim=(0, *range(2, a.dim()))), momentum=0.75)
    ctx._model.network.eval()
    with ctx.activations() as found, ctx.probe():
        ctx.forward(ctx.x)
    mean = found[name].mean(dim=(0, 2, 3))
    for expected in (0.25, 0.4375):
        with ctx._model.tracking(), torch.no_grad():
            ctx._model.network(ctx.x)
        assert torch.allclose(ctx.tracked[name], expected * mean, rtol=1e-4)
    ctx._model.network(ctx.x)  # outside of tracking nothing is recorded
    assert torch.allclose(ctx.tracked[name], expected * mean, rtol=1e-4)
