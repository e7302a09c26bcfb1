"""Blocks as units: which modules are blocks, and that gating one is removing it (B1, B8)."""

import copy

import pytest
import torch
from support.block_networks import BLOCKS, Added, block_network, found_blocks, random_masks, stem
from support.networks import SHAPE, hooks_of, images
from torch import nn

from bench.conformance.tiny_networks import conv, head
from bench.errors import RunFailed
from bench.models.build import build
from bench.pruning.block_discovery import find_blocks
from bench.pruning.gates import Gates, gate_slice_difference, randomized_copy
from bench.pruning.site_discovery import find_sites


@pytest.mark.parametrize("name", BLOCKS)
def test_gated_blocks_are_removed_blocks(name):
    """B1: mixed masks of blocks and widths, both couplings; the slice also runs in training mode."""
    for coupling in ("inner", "full"):
        network, sites = found_blocks(name, "both", coupling)
        assert tuple(s.n_units for s in sites.values() if s.blocks) == BLOCKS[name][1]
        probe = randomized_copy(network)
        for seed in range(4):
            masks = random_masks(sites, seed)
            sliced = sites.slice(probe, masks)
            difference = gate_slice_difference(probe, sliced, sites, masks, images(3).double(), 1e-30)
            assert difference < 1e-12, (coupling, seed, masks)
            left = dict(sliced.named_parameters())
            assert left.keys() <= dict(network.named_parameters()).keys(), "a parameter has another name"
            assert not any(block.is_in(sliced) for block in sites.removed(masks))
            sliced.train()(images(3).double()).sum().backward()
        assert not hooks_of(probe)


@pytest.mark.parametrize("name", BLOCKS)
def test_slice_without_its_blocks_alone_is_exact(name):
    """Where nothing but blocks goes, the sliced network gives the gated one's output to the last bit."""
    network, sites = found_blocks(name, "depth")
    assert all(site.blocks for site in sites.values())
    for seed in range(4):
        masks = random_masks(sites, seed)
        assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images(3)) == 0


def test_gate_of_each_image_multiplies_what_its_branches_add():
    """``[B, U]``, inside of the activation: between the input and the whole block."""
    network, sites = found_blocks("in_place", "depth")
    block, x = network[3], network[:3](images(3))
    gate = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.5, 1.0]])
    gates = Gates(network, sites)
    with torch.no_grad():
        branch = block.bn2(block.conv2(block.act(block.bn1(block.conv1(x)))))
        expected = network[4:]((x + gate[:, 0, None, None, None] * branch).relu())
        gates.set({"3": gate})
        torch.testing.assert_close(network(images(3)), expected)
    gates.remove()


def test_gradient_of_a_gate_is_the_sensitivity_to_the_branch():
    network, sites = found_blocks("layers", "depth")
    network, gate = copy.deepcopy(network).double(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    gates = Gates(network, sites.bind(network))

    def loss(value):
        gates.set({"layers.0": value})
        return network(images(2).double()).square().sum()

    loss(gate).backward()
    for unit in range(3):
        step = 1e-6 * torch.eye(3, dtype=torch.float64)[unit]
        with torch.no_grad():
            numeric = (loss(gate + step) - loss(gate - step)) / 2e-6
        assert float(gate.grad[unit]) == pytest.approx(float(numeric), rel=1e-6)
    gates.remove()


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("relu_stays", ["ReLU", "Identity"]),
        ("gelu_stays", ["GELU", "GELU"]),
        ("prelu_stays", ["Identity", "PReLU"]),
        ("functional", ["ReLU", "Identity"]),
        ("depth_A", ["Identity"] * 5),
    ],
)
def test_activation_of_the_sum_stays_where_it_changes_what_arrives(name, stays):
    network, sites = found_blocks(name, "depth")
    masks = {site: torch.zeros(s.n_units, dtype=torch.bool) for site, s in sites.items()}
    sliced = sites.slice(network, masks)
    left = [sliced.get_submodule(block.name) for block in sites.removed(masks)]
    assert [type(list(m.modules())[-1]).__name__ for m in left] == stays
    assert not any(getattr(m, "inplace", False) for removed in left for m in removed.modules())


class Reused(nn.Module):
    """A branch whose end is read twice."""

    def __init__(self):
        super().__init__()
        self.conv = conv(6, 6)

    def forward(self, x):
        y = self.conv(x)
        return x + y + y.mean()


class Weighed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.weight = conv(6, 6), nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x + self.weight * self.conv(x)


class Shortcut(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.conv, self.by = conv(6, 6), by

    def forward(self, x):
        return self.conv(x) + self.by(x)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(6, 6)

    def forward(self, x):
        return x + self.conv(x) if float(x.sum()) > -1e9 else x


class Reaching(nn.Module):
    """It reads an attribute of a block in it."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) * (1 + len(self.block.branch))


class Normed(nn.Module):
    """RepViT: a norm of the sum."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = conv(6, 6), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.bn(x + self.conv(x))


def shared_twice():
    block = Added(conv(6, 6))
    return nn.Sequential(block, block)


def tied():
    one, two = Added(conv(6, 6)), Added(conv(6, 6))
    two.branch[0].weight = one.branch[0].weight
    return nn.Sequential(one, two)


def hooked():
    block = Added(conv(6, 6))
    block.register_forward_hook(lambda module, args, out: out)
    return block


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Reused, "what conv gives is read by something else than the sum"),
        (Weighed, "a branch that it adds is the output of no module, but of mul"),
        (lambda: Shortcut(conv(6, 6, 1)), "does not have its input, as it is, as a summand"),
        (Normed, "does not have its input, as it is, as a summand"),
        (Branching, "no module of it adds something to its input"),
        (lambda: Reaching(Added(conv(6, 6))), "without it the network fails: AttributeError"),
        (lambda: nn.Sequential(conv(6, 6), Added(conv(6, 6, stride=2), end=nn.Upsample(scale_factor=2))), None),
        (shared_twice, "it runs 2 times in a forward pass"),
        (tied, "a tensor of it is also 3.1.branch.0's weight"),
        (hooked, "it has a hook"),
    ],
)
def test_what_is_no_block_has_a_reason(make, why):
    network = nn.Sequential(*stem(6, nn.ReLU()), make(), *head(6))
    if why is None:
        assert find_blocks(network, SHAPE)[0]["3.1"].n_units == 1
        return
    with pytest.raises(RunFailed, match="the network has no block that can be removed") as found:
        find_sites(network, SHAPE, units="depth")
    assert why in str(found.value)


def test_the_smallest_module_that_adds_is_the_block():
    inner = nn.Sequential(Added(conv(6, 6)), Added(conv(6, 6)))
    network = nn.Sequential(*stem(6, nn.ReLU()), Added(inner, conv(6, 6)), *head(6))
    sites = find_sites(network, SHAPE, units="depth")
    assert [block.name for site in sites.values() for block in site.blocks] == ["3.branch.0.0", "3.branch.0.1"]


def test_an_architecture_declares_groups_and_what_stays():
    network = block_network("depth_A")
    network.depth = {("1", "3"): 0, ("5", "0"): 1}
    sites = find_sites(network, SHAPE, units="depth")
    assert [([b.name for b in s.blocks], s.least) for s in sites.values()] == [(["1", "3"], 0), (["5"], 1)]
    assert sites.rejected["0"] == "the architecture's depth names it, and it adds nothing to its input"
    network.depth = 5  # a number of its own, as networks of others have
    assert find_sites(network, SHAPE, units="depth").widths == {"1": 3, "5": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "counts"),
    [
        ("resnet20", 32, (3, 2, 2)),
        ("resnet20b", 32, (3, 2, 2)),
        ("resnet56", 32, (9, 8, 8)),
        ("wrn16_4", 32, (1, 1, 1)),
        ("mobilenet_v2_cifar", 32, (1, 2, 3, 2, 2)),
        ("vit_small_cifar", 32, (12,)),
        ("convnext_tiny", 32, (3, 3, 9, 3)),
        ("torchvision:resnet18", 32, (2, 1, 1, 1)),
        *((f"torchvision:{name}", 32, (2, 3, 5, 2)) for name in ("resnet50", "resnext50_32x4d")),
        ("torchvision:mobilenet_v2", 64, (1, 2, 3, 2, 2)),
        ("torchvision:mobilenet_v3_small", 64, (1, 2, 1, 2)),
        ("torchvision:mnasnet1_0", 64, (2, 2, 2, 1, 3)),
        ("torchvision:efficientnet_b0", 64, (1, 1, 2, 2, 3)),
        ("torchvision:efficientnet_v2_s", 64, (2, 3, 3, 5, 8, 14)),
        ("torchvision:regnet_y_400mf", 64, (2, 5, 5)),
        ("torchvision:vit_b_16", 32, (12,)),
        ("torchvision:swin_t", 64, (2, 2, 6, 2)),
        ("torchvision:swin_v2_t", 64, (2, 2, 6, 2)),
    ],
)
def test_blocks_of_the_known_networks(name, side, counts):
    """B1, on whole networks: the counts that are known, gate == slice for mixed masks and both couplings, training."""
    network = build(name, (3, side, side), 10)
    probe, x = randomized_copy(network), images(2, (3, side, side)).double()
    for coupling in ("inner", "full"):
        sites = find_sites(network, (3, side, side), coupling, "both")
        assert tuple(s.n_units for s in sites.values() if s.blocks) == counts
        for seed in range(2):
            masks = random_masks(sites, seed)
            sliced = sites.slice(probe, masks)
            assert gate_slice_difference(probe, sliced, sites.bind(probe), masks, x, 1e-30) < 1e-9
            sliced.train()(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vgg16_bn", "densenet40", "squeezenet1_1", "googlenet", "torchvision:shufflenet_v2_x1_0"]
)
def test_networks_without_blocks(name):
    side = 64
    with pytest.raises(RunFailed, match=r"no block that can be removed \(no module of it adds something"):
        find_sites(build(name, (3, side, side), 10), (3, side, side), units="depth")
