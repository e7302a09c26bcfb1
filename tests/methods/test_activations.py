"""Variance of activations, rank of maps; numbers are those of the specification's section on standard controls."""

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import Unsupported
from bench.runs.method_factory import make_method
from methods.activations import ActVar, HRank


def planted(units=6):
    """A convolution on 8x8 images: unit 0 is dead, 1 is constant, 2 is the image where ReLU is the identity."""
    network = nn.Sequential(nn.Conv2d(1, units, 3, padding=1), nn.ReLU(), nn.Conv2d(units, 5, 3), nn.ReLU())
    network = nn.Sequential(*network, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10))
    with torch.no_grad():
        network[0].weight[:3] = 0
        network[0].bias[:3] = torch.tensor([-1.0, 2.0, 50.0])
        network[0].weight[2, 0, 1, 1] = 1
    return network


def scores(ctx, name, **options):
    return make_method(name, {k: str(v) for k, v in options.items()}).scores(ctx)


def maps_of(ctx, batches=None):
    """Outputs of the first convolution behind its ReLU for the training images, in float64, made by numpy."""
    layer = ctx._model.network[0]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found = []
    for x, _ in ctx.batches(limit=batches):
        padded = np.pad(x.double().numpy()[:, 0], ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        found.append(np.maximum(np.einsum("bhwij,uij->buhw", windows, weight[:, 0]) + bias[:, None, None], 0))
    return np.concatenate(found)


def test_13_7_rank_of_dead_constant_and_dense_maps(make_ctx):
    """MR 13.7: 0, 1 and full; and of all units the mean rank that numpy finds in float64."""
    ctx = make_ctx(arch=planted())
    found = scores(ctx, "hrank")["0"]
    assert found[:3].tolist() == [0, 1, 8]
    maps = maps_of(ctx, batches=5)
    # the tolerance of float32, in which ranks are taken
    singular = np.linalg.svd(maps, compute_uv=False)
    expected = (singular > singular.max(axis=2, keepdims=True) * 8 * np.finfo(np.float32).eps).sum(axis=2).mean(axis=0)
    assert np.allclose(found.numpy(), expected, atol=0.05)


def test_13_7_rank_does_not_depend_on_a_positive_scale(make_ctx):
    ctx = make_ctx(arch=planted())
    before = scores(ctx, "hrank")["0"]
    with torch.no_grad():
        for parameter in ctx._model.network[0].parameters():
            parameter.mul_(8)  # exact
    assert torch.equal(scores(ctx, "hrank")["0"], before)


def test_13_7_order_is_that_of_other_batches(make_ctx):
    """MR 13.7, batch stability: one batch, three batches, other images."""
    ctx = make_ctx(arch=planted(16))
    one, three = scores(ctx, "hrank", batches=1)["0"], scores(ctx, "hrank", batches=3)["0"]
    assert not torch.equal(one, three)
    ranks = torch.stack([one.argsort().argsort(), three.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.9


def test_13_7_linear_sites_are_exempt_and_ties_are_logged(make_ctx):
    ctx = make_ctx(arch="lenet", shape=(1, 16, 16), keep=0.6)
    method = HRank()
    assert [name for name, site in ctx.sites.items() if method.exempt(site)] == ["fc1"]
    found = method.scores(ctx)
    assert found["fc1"].tolist() == [0] * 500
    units = [found[name].tolist() for name in ("conv1", "conv2")]
    ties = sum(values.count(v) > 1 for values in units for v in values) / sum(map(len, units))
    assert ctx._now.logged["ties"] == pytest.approx(ties)
    with pytest.raises(Unsupported, match="hrank exempts every site"):
        method.require(make_ctx(arch="mlp_40_40").sites)


def test_rank_of_a_map_that_is_read_flat_is_at_most_one(make_ctx):
    class Flat(nn.Module):
        """A functional activation and a flattening: the map is not followed, its positions are."""

        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 5), nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(torch.nn.functional.relu(self.conv(x)).flatten(1))

    found = scores(make_ctx(arch=Flat()), "hrank")["conv"]
    assert found.shape == (4,)
    assert (found <= 1).all()


def test_variance_is_that_of_all_images_and_positions(make_ctx):
    """In float64 by numpy, whatever the batches; 0 for a dead and for a constant unit."""
    for size in (32, 7):
        ctx = make_ctx(arch=planted(), batch_size=size)
        found = scores(ctx, "act_var")["0"]
        assert np.allclose(found.numpy(), maps_of(ctx).var(axis=(0, 2, 3)), rtol=1e-4, atol=1e-7)
        assert found[0] == 0
        assert found[1] < 1e-10
    some = scores(ctx, "act_var", batches=2)["0"]
    assert np.allclose(some.numpy(), maps_of(ctx, 2).var(axis=(0, 2, 3)), rtol=1e-4, atol=1e-7)


def test_variance_of_neurons(make_ctx):
    ctx = make_ctx(arch="mlp_40_40", batch_size=95)  # the last batch is one image
    found = scores(ctx, "act_var")
    network, x = ctx._model.network, torch.cat([x for x, _ in ctx.batches()])
    with torch.no_grad():
        hidden = network[:3](x).double().numpy()
    assert np.allclose(found["1"].numpy(), hidden.var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("method", [ActVar, HRank])
def test_bad_option_is_answered_with_its_range(method):
    with pytest.raises(ValueError, match="batches 0: 1 or more"):
        method.Config(batches=0)
