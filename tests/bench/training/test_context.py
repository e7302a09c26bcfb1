"""What a method can rely on: probing leaves no trace, masks hold, candidates are exact, snapshots go back."""

import re
from dataclasses import replace

import pytest
import torch
from support.networks import GREY, in_forwards, three_sites
from support.paths import ROOT
from support.plans import carry_out, same, state_of
from torch import nn

from bench.api import Phase
from bench.data.loading import TrainingData
from bench.errors import RunFailed

DOCUMENT = ROOT / "docs" / "add_a_method.md"


def test_public_names_are_the_documented_ones(make_ctx):
    table = DOCUMENT.read_text().partition("### The context")[2].partition("\n## ")[0]
    documented = {name for line in table.splitlines() for name in re.findall(r"ctx\.(\w+)", line.split(" | ")[0])}
    assert documented == {name for name in dir(make_ctx(arch="mlp_40_40")) if not name.startswith("_")}


def test_former_name_of_prune_worst_still_works(make_ctx):
    ctx = make_ctx(arch="mlp_40_40")
    scores = ctx.draw()
    assert all(
        map(torch.equal, ctx.drop(scores, 0.2, "layer").values(), ctx.prune_worst(scores, 0.2, "layer").values())
    )


def test_only_masks_can_be_assigned(make_ctx):
    ctx = make_ctx(arch="mlp_40_40")
    for name in ("network", "optimizer", "forwarded", "snapshots", "anything"):
        with pytest.raises(AttributeError, match=rf"a context has no '{name}': docs/add_a_method\.md lists"):
            getattr(ctx, name)
        with pytest.raises(AttributeError, match=rf"ctx\.{name} cannot be set: .* only ctx\.masks can be assigned"):
            setattr(ctx, name, 0)
    for name in ("recipe", "budget", "x", "epoch", "curve", "sites", "rng"):
        with pytest.raises(AttributeError, match="cannot be set"):
            setattr(ctx, name, getattr(ctx, name))
    with pytest.raises(RunFailed, match="no mask for site"):
        ctx.masks = {}
    with pytest.raises(RunFailed, match=r"not torch.bool"):
        ctx.masks = {n: torch.ones(s.n_units) for n, s in ctx.sites.items()}


def start(make_training):
    torch.manual_seed(0)
    return make_training(arch=three_sites(), shape=GREY)


@pytest.fixture
def ctx(make_training):
    return start(make_training).ctx


def some_masks(ctx, share=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(s.n_units, generator=generator) < share for n, s in ctx.sites.items()}
    for mask in masks.values():
        mask[0] = True
    return masks


def test_probe_moves_nothing_and_may_be_the_training_forward(ctx):
    network = ctx._model.network.train()
    before, rng = state_of(network), torch.get_rng_state()
    modes = [m.training for m in network.modules()]
    for batch_statistics in (False, True):
        with ctx.probe(batch_statistics=batch_statistics):
            logits = ctx.forward(ctx.x)
            torch.rand(3)
        assert not logits.requires_grad
        assert same(before, state_of(network))
        assert torch.equal(rng, torch.get_rng_state())
        assert modes == [m.training for m in network.modules()]
    assert torch.allclose(logits, network(ctx.x), atol=1e-6)


def test_probe_gives_gradients_back(ctx):
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


def test_forward_with_a_gradient_costs_three(ctx):
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


def test_batch_gates_and_masked_blocks_end_and_masks_do_not(ctx):
    network = ctx._model.network.eval()
    free = network(ctx.x)
    with ctx.masked(some_masks(ctx)):
        assert not torch.allclose(network(ctx.x), free)
    assert torch.equal(network(ctx.x), free)
    ctx.gate({name: torch.zeros(len(ctx.x), s.n_units) for name, s in ctx.sites.items()})
    assert not torch.allclose(network(ctx.x), free)
    ctx._model.after_step()
    assert torch.equal(network(ctx.x), free)
    ctx.masks = some_masks(ctx)
    masked = network(ctx.x)
    ctx._model.after_step()
    assert torch.equal(network(ctx.x), masked)
    assert not torch.allclose(masked, free)


def test_masked_units_stay_under_momentum_and_decay(make_training):
    training = make_training(arch=three_sites(), shape=GREY, weight_decay=0.1)
    ctx = training.ctx
    carry_out(training, (Phase(1),))
    ctx.masks = masks = some_masks(ctx)
    before = state_of(ctx._model.network)
    training.position = (0, 0)
    carry_out(training, (Phase(2),))
    after = ctx._model.network.state_dict()
    for name, site in ctx.sites.items():
        for layer in (*site.producers, *site.norms):
            for key in {f"{layer}.weight", f"{layer}.bias"} & before.keys():
                assert torch.equal(before[key][~masks[name]], after[key][~masks[name]])
                assert not torch.equal(before[key][masks[name]], after[key][masks[name]])


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


def test_there_is_no_way_to_another_split(ctx):
    for split in ("test", "data", "_data"):
        with pytest.raises(RunFailed, match="'train' and 'val' only"):
            next(ctx.batches(split))


def test_batches_cover_the_split_once(make_ctx, make_data):
    ctx = make_ctx(arch="mlp_40_40", batch_size=40)
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


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_lie_class_by_class_come_mixed(by_class, split):
    """16 images of each class are expected in a batch of 64; less than 8 have a chance of 1 in 200."""
    whole = [y for _, y in by_class().batches(split) if len(y) == 64]
    assert all(y.bincount(minlength=4).min() >= 8 for y in whole)
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


def test_snapshot_and_rewind(make_training):
    training = start(make_training)
    ctx, network = training.ctx, training.model.network
    init = state_of(network)
    carry_out(training, (Phase(1),))
    ctx.snapshot("early")
    early = state_of(network)
    training.position = (0, 0)
    carry_out(training, (Phase(1),))
    assert not same(early, state_of(network))
    ctx.rewind("early")
    assert same(early, state_of(network))
    ctx.rewind("init")
    assert same(init, state_of(network))
    with pytest.raises(RunFailed, match="no snapshot 'x'; there are early, init and fresh"):
        ctx.rewind("x")


def test_fresh_weights_depend_on_the_seed_and_the_phase_only(make_training):
    one, two = (start(make_training).ctx for _ in range(2))
    torch.rand(5)
    rng = torch.get_rng_state()
    one.rewind("fresh")
    assert torch.equal(rng, torch.get_rng_state())
    two.rewind("fresh")
    assert same(state_of(one._model.network), state_of(two._model.network))
    assert not same(state_of(one._model.network), one._model.snapshots["init"])
    one._now.phase = 1
    one.rewind("fresh")
    assert not same(state_of(one._model.network), state_of(two._model.network))


def test_scores_are_checked(ctx):
    good = {n: torch.rand(s.n_units) for n, s in ctx.sites.items()}
    ctx.rank(good, "global")
    with pytest.raises(RunFailed, match="not finite"):
        ctx.rank(good | {"0": torch.full((12,), float("inf"))}, "layer")
    with pytest.raises(RunFailed, match=r"have shape \[3\], not \[12\]"):
        ctx.rank(good | {"0": torch.rand(3)}, "layer")


def test_running_statistic(ctx):
    ctx.track("0", lambda a: a.mean(dim=(0, *range(2, a.dim()))), momentum=0.75)
    ctx._model.network.eval()
    with ctx.activations() as found, ctx.probe():
        ctx.forward(ctx.x)
    mean = found["0"].mean(dim=(0, 2, 3))
    for expected in (0.25, 0.4375):
        with ctx._model.tracking(), torch.no_grad():
            ctx._model.network(ctx.x)
        assert torch.allclose(ctx.tracked["0"], expected * mean, rtol=1e-4)
    ctx._model.network(ctx.x)  # outside of tracking nothing is recorded
    assert torch.allclose(ctx.tracked["0"], expected * mean, rtol=1e-4)
