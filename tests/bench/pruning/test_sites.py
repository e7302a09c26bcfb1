import re

import pytest
import torch
from hypothesis import given, settings
from support.networks import (
    CASES,
    SHAPE,
    Encoder,
    conv,
    conv_bn,
    excited_stream,
    found,
    half_masks,
    head,
    hooks_of,
    images,
    made,
    masks_for,
    mlp,
    residual,
    with_activation,
)
from torch import nn

from bench.errors import RunFailed
from bench.models.build import build
from bench.models.layers import Attention
from bench.pruning.gates import Gates, gate_slice_difference
from bench.pruning.site_discovery import find_sites

# Sites of each case with their widths, and which layers produce each: written down from the networks' definitions.
EXPECTED = {
    "conv_bn": {"0": 6, "3": 5},
    "conv_flatten": {"0": 6, "3": 5, "7": 7},
    "mlp": {"1": 9, "3": 7},
    "residual_A_inner": {"1.body.0": 4, "2.body.0": 8},
    "residual_A_full": {"0.0": 4, "1.body.0": 4, "2.body.0": 8, "2.body.3": 8},
    "residual_B_inner": {"1.body.0": 4, "2.body.0": 8, "2.body.3": 8},
    "residual_B_full": {"0.0": 4, "1.body.0": 4, "2.body.0": 8, "2.body.3": 8},
    "bottleneck_inner": {"3.body.0": 4, "3.body.3": 5},
    "bottleneck_full": {"0": 6, "3.body.0": 4, "3.body.3": 5},
    "depthwise": {"0": 6, "6": 8},
    "densely_connected": {"0": 4, "1.conv": 3, "2.conv": 5},
    "doubled": {"0": 5, "3": 4},
    "sigmoid": {"0": 6, "3": 5},
    "prelu_per_channel": {"0": 6, "3": 5},
    "prelu_shared": {"0": 6, "3": 5},
    "grouped": {"0": 4, "6": 5},
    "grouped_twice": {"0": 3, "3": 5},
    "multiplied": {"0": 4},
    "excited": {"0": 6, "3.fc1": 3, "4": 5},
    "excited_stream": {"0": 6, "2.body.0": 4, "2.body.3.fc1": 3},
    "encoder": {"mlp.0": 7, "attention.qkv": 3},
    "gated_by_chunk": {"up": 6, "rest.0": 5},
    "gated_by_stride": {"up": 6, "rest.0": 5},
    "gated_by_module": {"up": 6, "rest.0": 5},
    "maxout": {"up": 6, "rest.0": 5},
    "swiglu": {"stem": 6, "gate": 9},
    "branches": {"stem": 6, "conv3": 6, "rest.0": 5},
    "group_norm": {"0": 3, "3": 5},
    "instance_norm": {"0": 6, "3": 5},
    "transposed": {"0": 6, "5": 7, "7": 5},
    "attention": {"attend.qkv": 3},
    "attention_of_three": {"attend.q": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_gate_equals_slice_and_not_another_slice(case):
    network, sites = found(case)
    x, ones = images(), sites.ones()
    assert sites.widths == EXPECTED[case]

    @settings(derandomize=True, max_examples=5, deadline=None)
    @given(masks_for(sites))
    def check(masks):
        sliced = sites.slice(network, masks)
        gates = Gates(network, sites)
        gates.set({name: mask.float() for name, mask in masks.items()})
        with torch.no_grad():
            gated = network(x)
            gates.remove()
            torch.testing.assert_close(gated, sliced(x), atol=1e-4, rtol=0)
        assert gate_slice_difference(network, sliced, sites, masks, x) <= 1e-4

    check()
    for name in sites:  # removing any single site's units changes the output, so equality above says something
        sliced = sites.slice(network, ones | {name: half_masks(sites)[name]})
        with torch.no_grad():
            assert (network(x) - sliced(x)).abs().max() > 1e-3
        assert gate_slice_difference(network, sliced, sites, ones, x) > 1e-3


@pytest.mark.parametrize(
    ("arch", "shape", "coupling"),
    [
        ("resnet20b", (3, 16, 16), "full"),
        ("lenet", (1, 16, 16), "inner"),
        pytest.param("resnet20", (1, 8, 8), "inner", marks=pytest.mark.slow),
        pytest.param("vgg16_bn", (3, 32, 32), "inner", marks=pytest.mark.slow),
        pytest.param("resnet56", (3, 32, 32), "full", marks=pytest.mark.slow),
    ],
)
def test_gate_equals_slice_on_own_architectures(arch, shape, coupling):
    network = build(arch, shape, 10)
    sites = find_sites(network, shape, coupling)
    x, masks = images(shape=shape), half_masks(sites)
    sliced = sites.slice(network, masks)
    assert gate_slice_difference(network, sliced, sites, masks, x) <= 1e-4
    assert gate_slice_difference(network, sliced, sites, sites.ones(), x) > 1e-4


def test_difference_is_relative_to_large_outputs_and_absolute_for_small_ones():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[2].weight.copy_(torch.tensor([[30.0, 10.0, 10.0]]))
    sites = find_sites(network, (2,))
    sliced = sites.slice(network, {"0": torch.tensor([True, True, False])})
    x = torch.tensor([[1.0, 1.0]])  # dense output 100, sliced 80
    assert gate_slice_difference(network, sliced, sites, sites.ones(), x) == pytest.approx(0.2)
    assert gate_slice_difference(network, sliced, sites, sites.ones(), x / 1000) == pytest.approx(0.02)


@pytest.mark.parametrize("training", [True, False])
def test_difference_leaves_mode_and_no_hook(training):
    network, sites = made("conv_bn"), found("conv_bn")[1]
    sliced = sites.slice(network, half_masks(sites)).train(not training)
    network.train(training)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    gate_slice_difference(network, sliced, sites, half_masks(sites), images())
    assert (network.training, sliced.training) == (training, not training)
    assert not hooks_of(network)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


class Centred(nn.Module):
    """Subtracts the mean over units: no layer, no parameter, and yet every unit depends on every other."""

    def forward(self, x):
        return x - x.mean(dim=1, keepdim=True)


class Counted(nn.Module):
    """Divides by the number of units: each of them depends on how many there are."""

    def forward(self, x):
        return x / x.shape[1]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scale, self.rest = conv(3, 6), nn.Parameter(torch.ones(6, 8, 8)), nn.Sequential(*head(6))
        self.between = conv(6, 6)

    def forward(self, x):
        return self.rest(self.between(self.conv(x) * self.scale).relu())


class Concatenated(nn.Module):
    """Each group of the last convolution reads channels of both others."""

    def __init__(self):
        super().__init__()
        self.left, self.right = conv(3, 4), conv(3, 8)
        self.both, self.rest = conv(12, 12, groups=2), nn.Sequential(conv(12, 4), *head(4))

    def forward(self, x):
        return self.rest(self.both(torch.cat([self.left(x), self.right(x)], dim=1)))


class Uneven(Attention):
    """Says that its first head has more channels than the others."""

    def units(self):
        maker, reader, _, _ = super().units()
        heads = [0] * 6 + [1] * 3 + [2] * 3
        return maker, reader, 3 * heads, heads


class Shuffled(nn.Module):
    """Channels of three groups change places."""

    def forward(self, x):
        return x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)


def shuffled():
    return nn.Sequential(conv(3, 12), conv(12, 12, groups=3), Shuffled(), conv(12, 12, groups=6), conv(12, 4), *head(4))


@pytest.mark.parametrize(
    ("network", "shape", "coupling", "site", "why"),
    [
        (lambda: with_activation(nn.LayerNorm((6, 8, 8))), SHAPE, "inner", "0", "LayerNorm.*all its units at once"),
        (lambda: with_activation(nn.GroupNorm(1, 6)), SHAPE, "inner", "0", "GroupNorm.*all its units at once"),
        (lambda: with_activation(nn.Softmax(1)), SHAPE, "inner", "0", "Softmax.*all its units at once"),
        (lambda: with_activation(Centred()), SHAPE, "inner", "0", "Centred.*all its units at once"),
        (lambda: with_activation(Counted()), SHAPE, "inner", "0", "gate and slice disagree by"),
        (conv_bn, SHAPE, "full", "8", "network's output"),
        (mlp, SHAPE, "inner", "5", "network's output"),
        (Concatenated, SHAPE, "inner", "left", r"groups of both \(Conv2d\) read all its units together"),
        (shuffled, SHAPE, "inner", "0", r"groups of 1 \(Conv2d\) read all its units together"),
        (excited_stream, SHAPE, "inner", "0", r"2 layers produce it together \(0, 2.body.2\).*--coupling full"),
        (lambda: Encoder(attention=Uneven(12, 3)), SHAPE, "inner", "attention.qkv", "more channels of one unit than"),
        (Encoder, SHAPE, "inner", "patches", "LayerNorm.*all its units at once"),
        (lambda: residual("A"), SHAPE, "inner", "0.0", r"2 layers produce it together .*1\.body\.3.*--coupling full"),
        (lambda: residual("B"), SHAPE, "inner", "0.0", r"2 layers .*1\.body\.3.*--coupling full"),
        (Scaled, SHAPE, "inner", "conv", "parameter scale"),
    ],
)
def test_what_is_no_site_and_why(network, shape, coupling, site, why):
    sites = find_sites(network(), shape, coupling)
    assert site not in sites
    assert re.search(why, sites.rejected[site])


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class LeavesTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 4)

    def forward(self, x):
        return {"logits": torch.as_tensor(self.fc(x.flatten(1)).detach().numpy())}


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Raising(TypeError("no such operation")), "cannot trace .*TypeError: no such operation.*one logits tensor"),
        (LeavesTorch(), "fc: no layer reads its units"),
        (Raising(ValueError("first line\nsecond line")), "first line"),
        (nn.Sequential(nn.Linear(5, 4)), "cannot"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "no site .*network's output"),
        (nn.Sequential(conv(3, 4)), "no site .*network's output"),
    ],
)
def test_network_without_sites_or_a_trace_is_one_line(network, why):
    with pytest.raises(RunFailed, match=why) as caught:
        find_sites(network, SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["residual_A_full", "densely_connected", "depthwise"])
def test_finding_sites_leaves_the_network_as_it_was(case):
    network = made(case).train()
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()  # a frozen norm stays frozen
    next(network.parameters()).requires_grad_(False)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    modules = [(name, m, m.training) for name, m in network.named_modules()]
    frozen = [p.requires_grad for p in network.parameters()]
    find_sites(network, SHAPE, CASES[case][1])
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], t) for n, t in before.items())
    assert [(name, m, m.training) for name, m in network.named_modules()] == modules
    assert [p.requires_grad for p in network.parameters()] == frozen
    assert all(p.grad is None for p in network.parameters())
    assert not hooks_of(network)


def test_rows_are_the_weights_that_make_a_unit():
    network, sites = found("residual_B_full")
    assert torch.equal(sites["1.body.0"].rows(), network[1].body[0].weight.flatten(1))
    both = torch.cat([network[0][0].weight.flatten(1), network[1].body[3].weight.flatten(1)], dim=1)
    assert torch.equal(sites["0.0"].rows(), both)
    assert sites["0.0"].rows().requires_grad


def test_gamma_sums_over_the_norms_of_a_unit():
    network, sites = found("residual_B_full")
    expected = network[0][1].weight.abs() + network[1].body[4].weight.abs()
    torch.testing.assert_close(sites["0.0"].gamma(), expected)
    assert found("conv_flatten")[1]["0"].gamma() is None


@pytest.mark.parametrize("case", CASES)
def test_site_describes_the_weights_of_each_unit(case):
    """What masks hold in place: weights and biases of the producers and of the norms, and no reader's weight."""
    network, sites = found(case)
    names = {p.data_ptr(): name for name, p in network.named_parameters()}
    for site in sites.values():
        rows, gamma = site.rows(), site.gamma()
        assert rows.dim() == 2
        assert len(rows) == site.n_units
        assert gamma is None or gamma.shape == (site.n_units,)
        for parameter, cut in site.unit_parameters():
            assert cut.side != "in"
            assert names[parameter.data_ptr()].rpartition(".")[0] == cut.layer
            assert int(cut.positions.max()) < len(parameter)
        held = {names[p.data_ptr()].rpartition(".")[0] for p, _ in site.unit_parameters()}
        assert {p for p in site.producers if list(network.get_submodule(p).parameters())} <= held
        assert set(site.norms) <= held
