"""Layer-wise refined pruning: section 7 of the specification of related methods."""

import pytest
import torch
from support.networks import GREY, conv, half_masks, head, three_sites
from torch import nn

from bench.errors import UsageError
from bench.runs.method_factory import make_method


def refined(**options):
    return make_method("refined", {key: str(value) for key, value in options.items()})


def sparse(bias=0.0):
    """Sites of 12, 16 and 12 units whose maps are zero at other shares each; a convolution between them pads."""
    torch.manual_seed(0)
    network = three_sites()
    with torch.no_grad():
        for norm, shift in ((network[1], -1.5), (network[5], 0.0), (network[8], 1.0)):
            norm.bias.fill_(shift + bias)
            norm.weight.uniform_(0.2, 2)
    return network


def calibrated(ctx):
    """Batch norms have the statistics of the training images, so that they make what their biases say."""
    network = ctx._model.network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.cat([x for x, _ in ctx.batches()]))
    network.eval()
    return ctx


def by_hand(network, x):
    """Shares of zeros in what the layers behind sites ``0``, ``4`` and ``7`` read."""
    with torch.no_grad():
        first = network[:4](x)
        second = network[4:7](first)
        third = network[7:12](second)
    return {site: float((a == 0).double().mean()) for site, a in (("0", first), ("4", second), ("7", third))}


def test_zeros_are_those_of_the_inputs_without_padding(make_ctx):
    """MR 7(i): zeros of the padding do not count: the oracle sees no padding."""
    ctx = calibrated(make_ctx(arch=sparse()))
    x = torch.cat([x for x, _ in ctx.batches()])
    for batches, images in ((4, 96), (1, 32)):
        assert refined(batches=batches).zeros(ctx) == pytest.approx(by_hand(ctx._model.network, x[:images]))
    found = by_hand(ctx._model.network, x)
    assert found["0"] > found["4"] > found["7"] == 0  # behind pooling few are left


def test_7g1_without_zeros_every_site_loses_the_same_share(make_ctx):
    """MR 7(g)1: all inputs positive: z = 0 for all, ratios equal p0; plain equal shares."""
    network = nn.Sequential(
        *(conv(1, 12), nn.BatchNorm2d(12), nn.Sigmoid(), conv(12, 16), nn.BatchNorm2d(16), nn.Sigmoid()), *head(16, 10)
    )
    ctx, method = make_ctx(arch=network), refined(a=1)
    zeros = method.zeros(ctx)
    assert set(zeros.values()) == {0.0}
    assert set(method.gone(zeros, 0.3).values()) == {0.3}
    masks = method.select(ctx, ctx.budget)
    assert {n: int(m.sum()) for n, m in masks.items()} == ctx.equal_widths()
    assert all(map(torch.equal, masks.values(), ctx.rank(method.scores(ctx), "layer").values()))


@pytest.mark.parametrize("keep", [0.6, 0.3, 0.15])
def test_7g2_more_zeros_lose_more_within_the_budget(make_ctx, keep):
    """MR 7(g)2: monotone in z; the budget is met, and a channel more of every site would exceed it."""
    ctx = calibrated(make_ctx(arch=sparse(), keep=keep))
    plain, method = refined(a=0).select(ctx, ctx.budget), refined(a=1)
    zeros = method.zeros(ctx)
    order = sorted(zeros, key=zeros.__getitem__)
    gone = method.gone(zeros, 0.2)
    assert gone[order[0]] <= gone[order[1]] <= gone[order[2]]
    masks = method.select(ctx, ctx.budget)
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    share = {name: count / ctx.sites[name].n_units for name, count in kept.items()}
    assert share[order[2]] <= share[order[1]] + 1 / 12 <= share[order[0]] + 2 / 12
    assert share[order[2]] < share[order[0]]
    assert share["0"] < float(plain["0"].float().mean()) + 1 / 12
    assert ctx.fits(kept)
    assert not ctx.fits({name: min(count + 1, ctx.sites[name].n_units) for name, count in kept.items()})


def test_7g3_zeros_do_not_depend_on_scales(make_ctx):
    """MR 7(g)3: a positive scale of what a layer reads, and the weights of the layer itself, change no zero."""
    ctx, method = calibrated(make_ctx(arch=sparse())), refined()
    before = method.zeros(ctx)
    network = ctx._model.network
    with torch.no_grad():
        network[1].weight *= 3
        network[1].bias *= 3
        network[4].weight /= 3
        network[12].weight *= 7
    assert method.zeros(ctx) == pytest.approx(before)


def test_shares_that_go_are_the_formula(make_ctx):
    zeros = {"a": 0.9, "b": 0.6, "c": 0.0}
    assert refined(a=0.5).gone(zeros, 0.3) == pytest.approx({"a": 0.5, "b": 0.35, "c": 0.05})
    assert refined(a=1, p_max=0.5).gone(zeros, 0.3) == pytest.approx({"a": 0.5, "b": 0.4, "c": 0.0})


def test_scores_are_the_scales_or_the_weights(make_ctx):
    ctx = make_ctx(arch=sparse())
    for name, score in refined().scores(ctx).items():
        assert torch.equal(score, ctx.sites[name].gamma())
    plain = make_ctx(arch="mlp_40_40")
    for name, score in refined().scores(plain).items():
        assert torch.allclose(score, plain._model.network.get_submodule(name).weight.abs().sum(dim=1))
        assert not score.requires_grad


def test_masks_and_several_readers_count(make_ctx):
    """Readers of a stream count equally; what a search has masked is zero."""
    ctx = make_ctx(arch="resnet20", coupling="full")
    zeros = refined(batches=1).zeros(ctx)
    assert zeros.keys() == ctx.sites.keys()
    ctx.masks = half_masks(ctx.sites)
    masked = refined(batches=1).zeros(ctx)
    assert all(0.45 <= masked[name] <= 1 for name in masked)  # a mean, not a sum


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("a", "-0.1", "a -0.1: from 0 to 10"),
        ("p_max", "1", "p_max 1.0: above 0 and below 1"),
        ("batches", "0", "batches 0: 1 or more"),
    ],
)
def test_wrong_options_are_answered_with_the_range(option, value, message):
    with pytest.raises(UsageError, match=message):
        make_method("refined", {option: value})


def test_cost_is_a_forward_of_the_images(make_ctx):
    ctx = make_ctx(arch=three_sites(), shape=GREY)
    refined(batches=2).select(ctx, ctx.budget)
    assert (ctx._model.ledger.forward, ctx._model.ledger.backward) == (64, 0)
