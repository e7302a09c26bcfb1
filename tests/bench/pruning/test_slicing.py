import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import CASES, found, half_masks, images, made
from torch import nn

from bench.measure.flops import parameters
from bench.models.layers import ChannelPad


def test_slice_by_hand():
    network, sites = found("conv_flatten")
    masks = sites.ones() | {"0": torch.tensor([1, 0, 1, 1, 0, 1]).bool(), "3": torch.tensor([0, 1, 1, 0, 1]).bool()}
    sliced = sites.slice(network, masks)
    first, second = [0, 2, 3, 5], [1, 2, 4]
    columns = [4 * unit + place for unit in second for place in range(4)]
    expected = {
        "0.weight": network[0].weight[first],
        "0.bias": network[0].bias[first],
        "3.weight": network[3].weight[second][:, first],
        "3.bias": network[3].bias[second],
        "7.weight": network[7].weight[:, columns],
    }
    for name, value in network.state_dict().items():
        assert torch.equal(sliced.state_dict()[name], expected.get(name, value)), name
    assert (sliced[0].out_channels, sliced[3].in_channels, sliced[3].out_channels) == (4, 4, 3)
    assert (sliced[7].in_features, sliced[7].out_features) == (12, 7)


def test_slice_of_norms_and_depthwise_by_hand():
    network, sites = found("depthwise")
    sliced = sites.slice(network, sites.ones() | {"0": torch.tensor([0, 1, 0, 1, 1, 0]).bool()})
    kept = [1, 3, 4]
    for norm in (1, 4):
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(sliced[norm], name), getattr(network[norm], name)[kept])
        assert sliced[norm].num_features == 3
    assert torch.equal(sliced[3].weight, network[3].weight[kept])
    assert (sliced[3].groups, sliced[3].in_channels, sliced[3].out_channels) == (3, 3, 3)
    assert torch.equal(sliced[6].weight, network[6].weight[:, kept])


@pytest.mark.parametrize("case", CASES)
def test_slice_of_all_or_one_unit_leaves_the_original(case):
    network, sites = made(case), found(case)[1]
    before = {n: t.clone() for n, t in network.state_dict().items()}
    sliced = sites.slice(network, sites.ones())
    assert list(sliced.state_dict()) == list(before)
    assert all(torch.equal(t, before[n]) for n, t in sliced.state_dict().items())
    with torch.no_grad():
        assert torch.equal(sliced(images()), network(images()))
    one = sites.slice(network, {name: torch.arange(width) == width - 1 for name, width in sites.widths.items()})
    assert one.eval()(images()).shape == (2, 4)
    assert parameters(one) < parameters(network)
    with torch.no_grad():
        for tensor in (*sliced.state_dict().values(), *one.state_dict().values()):
            tensor.zero_()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert set(network.modules()).isdisjoint({*sliced.modules(), *one.modules()})


@pytest.mark.parametrize("case", ["conv_bn", "depthwise", "residual_A_full", "densely_connected"])
def test_the_memory_format_is_kept(case):
    sites = found(case)[1]

    def formats(network):
        convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        return [m.weight.is_contiguous(memory_format=torch.channels_last) for m in convs]

    masks = {name: torch.arange(width) % 3 != 1 for name, width in sites.widths.items()}
    plain = sites.slice(made(case), masks)
    assert all(m.weight.is_contiguous() for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert all(formats(sites.slice(made(case).to(memory_format=torch.channels_last), masks)))
    assert not all(formats(plain))


def test_what_training_needs_is_kept():
    network, sites = made("conv_bn").double().train(), found("conv_bn")[1]
    network[0].weight.requires_grad_(False)
    sliced = sites.slice(network, half_masks(sites))
    assert sliced.training
    assert {p.dtype for p in sliced.parameters()} == {torch.float64}
    assert [p.requires_grad for p in sliced.parameters()] == [p.requires_grad for p in network.parameters()]
    sliced(images().double()).sum().backward()
    assert all(p.grad is not None and p.is_leaf for p in sliced.parameters() if p.requires_grad)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 5), st.sampled_from([1, 2]), st.data())
def test_channel_pad_equals_its_selector_convolution(inp, more, stride, data):
    pad, x = ChannelPad(inp, inp + more, stride), images(shape=(inp, 5, 6))
    with torch.no_grad():
        dense = pad(x)
        assert torch.equal(dense, pad.stand_in()(x))
        left = more // 2
        assert torch.equal(dense[:, left : left + inp], x[:, :, ::stride, ::stride])
        assert dense.count_nonzero() == x[:, :, ::stride, ::stride].count_nonzero()  # the rest is zero

        def mask(width):
            return torch.tensor(data.draw(st.lists(st.booleans(), min_size=width, max_size=width).filter(any)))

        for _ in range(2):  # a sliced one can be sliced again
            keep_in, keep_out = mask(pad.in_channels), mask(pad.out_channels)
            expected = pad(x * keep_in[:, None, None])[:, keep_out]
            pad.slice_channels(keep_in, keep_out)
            x = x[:, keep_in]
            assert torch.equal(pad(x), expected)
            assert torch.equal(pad.stand_in()(x), expected)
            assert (pad.in_channels, pad.out_channels) == (int(keep_in.sum()), int(keep_out.sum()))
