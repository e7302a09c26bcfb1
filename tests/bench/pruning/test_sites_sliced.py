"""Sites of a sliced network: all that holds of the first ones holds of them; and what a site says of its weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import CASES, SHAPE, conv, found, half_masks, head, images, made, masks_for
from torch import nn

from bench.errors import RunFailed
from bench.models.layers import ChannelPad
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites


def composed(first, second):
    """Masks over the units of the whole network of masks one after the other."""
    both = {}
    for name, mask in first.items():
        both[name] = mask.clone()
        both[name][mask] = second[name]
    return both


@pytest.mark.parametrize("case", CASES)
def test_gate_equals_slice_again_and_twice_is_once(case):
    network, sites = found(case)
    x = images()

    @settings(derandomize=True, max_examples=3, deadline=None)
    @given(masks_for(sites), st.data())
    def check(first, data):
        small = sites.slice(network, first)
        again = sites.reindex_after(first, small)
        assert again.widths == {name: int(mask.sum()) for name, mask in first.items()}
        second = data.draw(masks_for(again))
        smaller = again.slice(small, second)
        assert gate_slice_difference(small, smaller, again, second, x) <= 1e-4
        once = sites.slice(network, composed(first, second))
        one, two = once.state_dict(), smaller.state_dict()
        assert list(one) == list(two)
        assert all(torch.equal(one[key], two[key]) for key in one)
        with torch.no_grad():
            assert torch.equal(once(x), smaller(x))

    check()
    first = half_masks(sites)
    small = sites.slice(network, first)
    again = sites.reindex_after(first, small)
    for name, width in again.widths.items():  # the comparison can fail
        masks = again.ones() | {name: torch.arange(width) < 1}
        assert gate_slice_difference(small, again.slice(small, masks), again, again.ones(), x) > 1e-3


def described(site):
    """What a site removes and where it is read, in an order of its own."""
    cuts = {(c.layer, c.side): sorted(zip(c.positions.tolist(), c.units.tolist())) for c in site.cuts}
    taps = {(t.layer, t.axis, t.width): sorted(zip(t.positions.tolist(), t.units.tolist())) for t in site.consumers}
    return site.kind, site.n_units, set(site.producers), set(site.norms), cuts, taps


@pytest.mark.parametrize("case", CASES)
def test_sliced_sites_are_those_that_would_be_found_on_the_sliced_network(case):
    network, sites = found(case)
    masks = half_masks(sites)
    small = sites.slice(network, masks)
    moved, anew = sites.reindex_after(masks, small), find_sites(small, SHAPE, CASES[case][1])
    assert set(moved) == set(anew)
    assert (moved.rejected, moved.coupling) == (sites.rejected, sites.coupling)
    for name, site in moved.items():
        assert described(site) == described(anew[name])
        assert site.network is small
        assert torch.equal(site.rows(), anew[name].rows())


def test_a_padded_shortcut_is_sliced_twice():
    network, sites = found("residual_A_full")
    masks = half_masks(sites)
    small = sites.slice(network, masks)
    pad = next(m for m in small.modules() if isinstance(m, ChannelPad))
    assert (pad.in_channels, pad.out_channels) == (2, 4)
    again = sites.reindex_after(masks, small)
    smaller = again.slice(small, half_masks(again, seed=1))
    pad = next(m for m in smaller.modules() if isinstance(m, ChannelPad))
    assert (pad.in_channels, pad.out_channels) == (1, 2)


def test_the_same_sites_of_another_network():
    network, sites = found("conv_bn")
    other = made("conv_bn")
    with torch.no_grad():
        other[0].weight.mul_(2)
    moved = sites.bind(other)
    assert torch.equal(moved["0"].rows(), 2 * sites["0"].rows())
    assert torch.equal(sites["0"].rows(), network[0].weight.flatten(1))
    assert moved.widths == sites.widths
    masks = half_masks(sites)
    assert gate_slice_difference(other, moved.slice(other, masks), moved, masks, images()) <= 1e-4


# --- what a site says of its weights -------------------------------------------------------------------------


def test_weights_and_kernels():
    network, sites = found("residual_B_full")
    first, second = sites["0.0"].weights()
    assert first is network[0][0].weight
    assert second is network[1].body[3].weight
    kernels = sites["0.0"].kernels()
    assert kernels.shape == (4, 3 + 4, 9)
    assert torch.equal(kernels.flatten(1), sites["0.0"].rows())
    assert kernels.requires_grad
    linear = found("mlp")[1]["1"]
    assert torch.equal(linear.kernels(), linear.rows()[..., None])


def test_kernels_of_different_sizes_are_padded_with_zeros():
    network, sites = found("residual_B_full")
    kernels = sites["2.body.3"].kernels()  # a 3x3 convolution beside a projection of 1x1
    assert kernels.shape == (8, 8 + 4, 9)
    body, projection = network[2].body[3].weight, network[2].shortcut[0].weight
    assert torch.equal(kernels[:, :8], body.flatten(2))
    assert torch.equal(kernels[:, 8:, 0], projection.flatten(1))
    assert kernels[:, 8:, 1:].abs().max() == 0


def test_a_padded_shortcut_has_no_weights():
    network, sites = found("residual_A_full")
    assert [w is network[2].body[3].weight for w in sites["2.body.3"].weights()] == [True]


def test_scale_is_gamma_and_fails_in_one_line_without_a_norm():
    network, sites = found("conv_bn")
    assert torch.equal(sites["0"].scale(), network[1].weight.abs())
    with pytest.raises(RunFailed, match="site 0 has no batch norm with a scale") as caught:
        found("conv_flatten")[1]["0"].scale()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("affine", [True, False])
def test_effective_norm_is_that_of_the_folded_weights(affine):
    """Batch norm in eval mode folded into the convolution: the norm of the folded filters."""
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(5, affine=affine)
    network = nn.Sequential(conv(3, 5), norm, nn.ReLU(), conv(5, 4), nn.ReLU(), *head(4)).eval()
    with torch.no_grad():
        norm.running_var.uniform_(0.1, 3)
        if affine:
            norm.weight.uniform_(-2, 2)
    sites = find_sites(network, SHAPE)
    folded = nn.utils.fusion.fuse_conv_bn_eval(network[0], norm) if affine else None
    if affine:
        expected = folded.weight.flatten(1).norm(dim=1)
    else:
        expected = network[0].weight.flatten(1).norm(dim=1) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(sites["0"].effective_norm(), expected)
    assert torch.equal(sites["3"].effective_norm(), sites["3"].rows().norm(dim=1))


def test_effective_norm_does_not_change_with_the_size_of_weights_that_a_norm_undoes():
    network, sites = made("conv_bn"), found("conv_bn")[1]
    sites = sites.bind(network)
    before = sites["0"].effective_norm().detach()
    with torch.no_grad():
        network[0].weight.mul_(10)
        network[1].running_var.mul_(100)
    torch.testing.assert_close(sites["0"].effective_norm().detach(), before, rtol=1e-3, atol=0)
    assert sites["0"].effective_norm().requires_grad


def test_effective_norm_of_several_norms_is_their_mean():
    network, sites = found("residual_B_full")
    factors = [n.weight.abs() / (n.running_var + n.eps).sqrt() for n in (network[0][1], network[1].body[4])]
    expected = sites["0.0"].rows().norm(dim=1) * (factors[0] + factors[1]) / 2
    torch.testing.assert_close(sites["0.0"].effective_norm(), expected)
