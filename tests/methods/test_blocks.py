"""Importances of blocks: against their definitions in double precision, and of a block that does nothing (B7)."""

import pytest
import torch
from support.plans import carry_out
from torch.nn.functional import cross_entropy

from bench.api import Phase
from bench.conformance.tiny_networks import SHAPE, depth
from bench.errors import Unsupported, UsageError
from bench.runs.method_factory import make_method

NAMES = ("block_random", "block_l1", "block_taylor", "block_change")
LOOKING = ("block_l1", "block_taylor", "block_change")


def trained(make_training, units="depth"):
    """The context of a residual network after an epoch, and its blocks in order."""
    torch.manual_seed(0)
    training = make_training(arch=depth("A", num_classes=10), shape=SHAPE, units=units, keep=0.7)
    carry_out(training, (Phase(1),))
    network = training.ctx._model.network
    return training.ctx, network, [network[k] for k in (1, 2, 3, 5, 6)]


def scores(ctx, name, **options):
    """Of a method by its name, of all blocks in order."""
    found = make_method(name, {key: str(value) for key, value in options.items()}).scores(ctx)
    assert list(found) == ["1", "5"]
    return torch.cat(list(found.values())).double()


@pytest.fixture
def made(make_training):
    return trained(make_training)


def test_mean_weight_of_each_block(made):
    ctx, _, blocks = made
    expected = []
    for block in blocks:
        sizes = [abs(float(w)) for layer in (block.body[0], block.body[3]) for w in layer.weight.detach().flatten()]
        expected.append(sum(sizes) / len(sizes))
    torch.testing.assert_close(scores(ctx, "block_l1"), torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_squared_derivative_by_a_gate(made):
    """Against a network whose blocks have the gates written into their forward, in double precision."""
    ctx, network, blocks = made
    exact = network.double().eval()
    total, seen = torch.zeros(5, dtype=torch.float64), 0
    for x, y in ctx.batches("train", 2):
        gates, at = torch.ones(5, dtype=torch.float64, requires_grad=True), 0
        stream = x.double()
        for part in exact:
            if part in blocks:
                stream, at = torch.relu(stream + gates[at] * part.body(stream)), at + 1
            else:
                stream = part(stream)
        cross_entropy(stream, y).backward()
        total, seen = total + len(x) * gates.grad.square(), seen + len(x)
    network.float()
    torch.testing.assert_close(scores(ctx, "block_taylor", batches=2), total / seen, rtol=2e-4, atol=1e-12)


def test_cosine_of_input_and_output(made):
    ctx, network, blocks = made
    exact = network.double().eval()
    total, seen = torch.zeros(5, dtype=torch.float64), 0
    with torch.no_grad():
        for x, _ in ctx.batches("train", 2):
            stream, at = x.double(), 0
            for part in exact:
                before, stream = stream, part(stream)
                if part in blocks:
                    for one, two in zip(before.flatten(1), stream.flatten(1)):
                        total[at] += 1 - float(one @ two) / float(one @ one) ** 0.5 / float(two @ two) ** 0.5
                    at += 1
            seen += len(x)
    network.float()
    torch.testing.assert_close(scores(ctx, "block_change", batches=2), total / seen, rtol=1e-3, atol=1e-6)


def test_random_blocks_depend_on_the_seed_alone(made):
    ctx, _, _ = made
    state = ctx.rng.get_state()
    first = scores(ctx, "block_random")
    assert not torch.equal(first, scores(ctx, "block_random"))
    ctx.rng.set_state(state)
    assert torch.equal(first, scores(ctx, "block_random"))


@pytest.mark.parametrize("name", LOOKING)
def test_a_block_that_does_nothing_has_no_score(made, name):
    """B7: weights, gamma and beta of its branches are 0; removing it changes no output."""
    ctx, network, blocks = made
    with torch.no_grad():
        for layer in (blocks[1].body[0], blocks[1].body[3], blocks[1].body[1], blocks[1].body[4]):
            for parameter in layer.parameters():
                parameter.zero_()
    found = scores(ctx, name)
    assert abs(float(found[1])) < 1e-6
    assert float(found[[0, 2, 3, 4]].min()) > 1e-5 or name == "block_taylor"
    assert int(found.argmin()) == 1
    masks = ctx.sites.ones() | {"1": torch.tensor([True, False, True])}
    before = network.eval()(ctx.x)
    assert torch.equal(ctx.sites.slice(network, masks)(ctx.x), before)
    assert not ctx.rank(make_method(name, {}).scores(ctx), "global")["1"][1]


@pytest.mark.parametrize("name", NAMES)
def test_they_work_on_blocks_alone(make_training, name):
    ctx, _, _ = trained(make_training, "width")
    with pytest.raises(Unsupported, match=f"{name} does not work on site 1.body.0: it is of kind conv, not block"):
        make_method(name, {}).require(ctx.sites)
    both, _, _ = trained(make_training, "both")
    with pytest.raises(Unsupported, match="it is of kind conv, not block"):
        make_method(name, {}).require(both.sites)
    with pytest.raises(Unsupported, match="l1_norm does not work on site 1: it is of kind block, not conv or linear"):
        make_method("l1_norm", {}).require(both.sites)


@pytest.mark.parametrize("name", NAMES)
def test_next_to_an_importance_of_channels(make_training, name):
    """Each part ranks the sites of its kinds, in its own way."""
    ctx, _, _ = trained(make_training, "both")
    method = make_method(f"l1_norm+{name}", {})
    method.require(ctx.sites)
    state = ctx.rng.get_state()
    found = method.scores(ctx)
    assert list(found) == list(ctx.sites)
    ctx.rng.set_state(state)
    alone = {site: score for site, score in make_method(name, {}).scores(ctx).items() if ctx.sites[site].blocks}
    assert all(torch.equal(found[site], score) for site, score in alone.items())
    assert torch.equal(found["2.body.0"], ctx.sites["2.body.0"].rows().abs().sum(dim=1))
    ctx.rng.set_state(state)
    masks = method.select(ctx, ctx.budget)
    expected = ctx.rank(found, "layer", "global" if name in ("block_taylor", "block_change") else "layer")
    assert all(torch.equal(masks[site], mask) for site, mask in expected.items())
    assert ctx.fits(masks)


@pytest.mark.parametrize("name", ["block_l1+distill", "block_l1+refit_bn", "weight_decay+block_l1"])
def test_next_to_parts_that_do_nothing_to_units(make_training, name):
    """What leaves units alone does not mind of which kind they are; what reads them does."""
    ctx, _, _ = trained(make_training, "depth")
    make_method(name, {}).require(ctx.sites)
    ctx, _, _ = trained(make_training, "both")
    make_method(f"l1_norm+{name}", {}).require(ctx.sites)
    with pytest.raises(Unsupported, match="refit_ridge does not work on site 1: it is of kind block"):
        make_method("l1_norm+block_l1+refit_ridge", {}).require(ctx.sites)


def test_two_rankings_of_one_kind_are_refused():
    for names in ("block_l1+block_change", "random+block_l1", "uniform_thin+block_l1", "l1_norm+l2_norm"):
        with pytest.raises(UsageError, match="cannot be composed: both rank the units"):
            make_method(names, {})
    with pytest.raises(UsageError, match="l0_row chooses units itself: it cannot be composed with another"):
        make_method("l0_row+block_l1", {})


def test_a_part_without_sites_is_refused(make_training):
    ctx, _, _ = trained(make_training, "width")
    with pytest.raises(Unsupported, match="block_l1 ranks block sites: there is none"):
        make_method("l1_norm+block_l1", {}).require(ctx.sites)
    ctx, _, _ = trained(make_training, "depth")
    with pytest.raises(Unsupported, match="l1_norm ranks conv and linear sites: there is none"):
        make_method("l1_norm+block_l1", {}).require(ctx.sites)
