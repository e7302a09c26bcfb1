"""Layers as matrices (contract 2.2): their order, matrices, columns, rows of inputs, both ways of ``shift_``."""

import pytest
import torch
from support.networks import CASES, SHAPE, conv, found, head, images, made
from support.plans import same, state_of
from torch import nn

from bench.errors import RunFailed
from bench.pruning.layers import find_layers
from bench.pruning.slicing import channels


def free(call):
    """Writing is allowed."""


def layers_of(network, sites=None, shape=SHAPE):
    return find_layers(network, sites or {}, torch.zeros(2, *shape), free)


KINDS = {
    "padded": (nn.Conv2d(3, 5, 3, padding=1), SHAPE),
    "stride": (nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), SHAPE),
    "dilation": (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), dilation=(2, 3), padding=(2, 0)), SHAPE),
    "same": (nn.Conv2d(3, 5, 4, padding="same"), SHAPE),
    "circular": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), SHAPE),
    "groups": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 8, 8)),
    "one_axis": (nn.Conv1d(3, 5, 3, stride=2, padding=1), (3, 9)),
    "three_axes": (nn.Conv3d(2, 5, (1, 2, 3), padding=(0, 1, 1)), (2, 3, 4, 5)),
    "transposed": (nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1), SHAPE),
    "transposed_tight": (nn.ConvTranspose2d(3, 5, 2, padding=2), SHAPE),
    "transposed_dilation": (nn.ConvTranspose2d(3, 5, 3, stride=(1, 3), dilation=2), SHAPE),
    "transposed_groups": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (6, 4, 4)),
    "linear": (nn.Linear(3, 5), (7, 3)),
}


def alone(kind):
    """The layer of a kind, and the module, images and what it makes of them."""
    module, shape = KINDS[kind]
    layer = layers_of(nn.Sequential(module, nn.Flatten()), shape=shape)["0"]
    x = torch.randn(3, *shape)
    return layer, module, x, module(x).detach()


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch copies the input
@pytest.mark.parametrize("kind", KINDS)
def test_rows_times_matrix_are_the_output(kind):
    """Contract 2.2, samples: ``X @ matrix().T`` is the output at these positions; stride, dilation, padding."""
    layer, module, x, y = alone(kind)
    flat = y.movedim(-1 if kind == "linear" else 1, -1).reshape(-1, channels(module)[1])
    assert layer.positions(y) == len(flat) // 3
    rows = torch.cat([torch.tensor([0, 1, len(flat) - 1]), torch.randperm(len(flat))[:20]])
    patches = layer.patches(x, y, rows)
    response = patches @ layer.matrix().T + (0 if module.bias is None else module.bias)
    assert torch.allclose(response, flat[rows], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_assigning_the_matrix_changes_no_bit_and_another_one_is_written(kind):
    """Contract 2.2: ``assign(matrix())`` changes no bit."""
    layer, module, _, _ = alone(kind)
    before = state_of(module)
    layer.assign(layer.matrix())
    assert same(state_of(module), before)
    other = layer.matrix().detach() * torch.arange(1, len(layer.matrix()) + 1)[:, None]
    layer.assign(other)
    assert torch.equal(layer.matrix(), other)
    if module.bias is not None:
        layer.assign(other, torch.arange(len(other)).float())
        assert torch.equal(module.bias, torch.arange(len(other)).float())
        module.load_state_dict(before)


def test_what_cannot_be_assigned_is_refused():
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False), computed)
    first, second = layers_of(network).values()
    with pytest.raises(RunFailed, match=r"^layer 1: matrix \[192, 3\], not \[3, 192\]$"):
        first.assign(first.matrix().T)
    with pytest.raises(RunFailed, match=r"^layer 1 has no bias to assign$"):
        first.assign(first.matrix(), torch.zeros(3))
    with pytest.raises(RunFailed, match=r"^layer 2: its weight is computed from others"):
        second.assign(second.matrix())


def test_matrix_has_a_gradient():
    layer, module, _, _ = alone("padded")
    layer.matrix().square().sum().backward()
    assert torch.allclose(module.weight.grad, 2 * module.weight)
    module.weight.grad = None


# --- both ways of shift_ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "place"), [(True, "0.bias"), (False, "1.running_mean")])
def test_shift_moves_the_output_by_delta(bias, place):
    """Contract 2.2: both ways of ``shift_`` move the output by delta; what a norm makes of it included."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), nn.BatchNorm2d(6), nn.Flatten()).eval()
    network[1].running_var.uniform_(0.5, 2)
    network[1].weight.data.uniform_(-1, 1)
    layer, delta, x = layers_of(network)["0"], torch.randn(6), images()
    expected = network[1](network[0](x) + delta[:, None, None]).flatten(1)
    before = state_of(network)
    layer.shift_(delta)
    assert torch.allclose(network(x), expected, atol=1e-6)
    assert {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])} == {place}


class Reads(nn.Module):
    """A convolution without bias, then what ``read`` makes of its output and the norms."""

    def __init__(self, read, norms=1):
        super().__init__()
        self.conv, self.read = conv(3, 4, bias=False), read
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))
        self.other = conv(3, 4, bias=False)

    def forward(self, x):
        return self.read(self, self.conv(x), self.other(x)).flatten(1)


@pytest.mark.parametrize(
    ("read", "norms", "follower"),
    [
        (lambda n, y, z: n.norms[0](y).relu() + z, 1, "norms.0"),
        (lambda n, y, z: n.norms[0](y) + y, 1, None),
        (lambda n, y, z: n.norms[0](y) + n.norms[0](z), 1, None),
        (lambda n, y, z: n.norms[0](y) + n.norms[1](y), 2, None),
        (lambda n, y, z: n.norms[0](y.relu()), 1, None),
        (lambda n, y, z: n.norms[0](y.add_(z)), 1, None),
        (lambda n, y, z: n.norms[0](torch.cat([y[:, :2], z[:, :2]], dim=1)), 1, None),
    ],
)
def test_only_a_norm_directly_behind_that_nothing_shares_is_shifted(read, norms, follower):
    layer = layers_of(Reads(read, norms).eval())["conv"]
    assert layer.follower == follower
    assert layer.shifts == (follower is not None)
    if follower is None:
        with pytest.raises(RunFailed, match=r"^layer conv cannot be shifted: no bias, no batch norm directly behind"):
            layer.shift_(torch.zeros(4))


def test_norm_without_statistics_is_not_shifted():
    network = nn.Sequential(conv(3, 4, bias=False), nn.BatchNorm2d(4, track_running_stats=False), *head(4))
    assert layers_of(network)["0"].follower is None


# --- order, sites, columns -----------------------------------------------------------------------------------------


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them; one never runs."""

    def __init__(self):
        super().__init__()
        self.fc, self.second, self.unused, self.first = nn.Linear(5, 4), conv(4, 5), conv(3, 3), conv(3, 4)

    def forward(self, x):
        return self.fc(self.second(self.first(x).relu()).relu().mean(dim=(2, 3)))


def test_layers_come_in_order_of_execution_and_nothing_is_left():
    network = Backwards().train()
    before = state_of(network)
    assert list(layers_of(network)) == ["first", "second", "fc"]
    assert all(module.training for module in network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert same(state_of(network), before)


@pytest.mark.parametrize("case", CASES)
def test_makers_readers_and_columns_are_those_of_the_sites(case):
    """``columns``: zeroing the columns of a unit is what gating that unit does to the layer's output."""
    network, sites = found(case)
    layers = layers_of(network, sites)
    makers = {maker for site in sites.values() for maker in site.producers}
    assert {name for name, layer in layers.items() if layer.makes} == makers & layers.keys()
    for name, site in sites.items():
        for tap in site.consumers:
            if tap.layer not in layers:
                continue  # the padded shortcut
            layer = layers[tap.layer]
            assert name in layer.reads
            unit, matrix = layer.columns(name), layer.matrix().detach()
            assert torch.equal(layer.columns(site), unit)
            assert set(unit.tolist()) - {-1} == set(range(site.n_units))
            x = torch.randn(2, tap.width, 3, 3) if tap.axis == 1 else torch.randn(2, 3, tap.width)
            mask = torch.arange(site.n_units) % 2 == 0
            gate = torch.ones(tap.width)
            gate[tap.positions] = mask[tap.units].float()
            y, rows = layer.module(x), torch.arange(4)
            gated = layer.patches(x * (gate[:, None, None] if tap.axis == 1 else gate), y, rows)
            zeroed = matrix * ((unit < 0) | mask[unit])
            assert torch.allclose(gated @ matrix.T, layer.patches(x, y, rows) @ zeroed.T, atol=1e-5)


def test_sites_that_a_layer_reads_are_in_their_order():
    network, sites = made("densely_connected"), found("densely_connected")[1]
    assert layers_of(network, sites.bind(network))["7"].reads == ("0", "1.conv", "2.conv")
