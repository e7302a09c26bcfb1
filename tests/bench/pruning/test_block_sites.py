"""Weights and norms of blocks as groups of units: contract 3 (rows, reads, gamma, affine) and 2.1 (norms, scale_)."""

import pytest
import torch
from support.block_networks import BLOCKS, Added, block_network, found_blocks, stem
from support.networks import SHAPE, images
from torch import nn

from bench.conformance.tiny_networks import conv, head
from bench.errors import RunFailed
from bench.pruning.gates import Gates
from bench.pruning.site_discovery import find_sites

EVERYTHING = ("weight", "bias", "norm")
LAST = {  # network -> the norm that the branch of each block ends in
    "depth_A": lambda block: block.body[4],
    "in_place": lambda block: block.bn2,
    "functional": lambda block: block.bn,
}


def fresh(name):
    """Network, its sites, and its blocks in order, that a test may change."""
    network = block_network(name)
    sites = found_blocks(name, "depth")[1].bind(network)
    return network, sites, {n: [network.get_submodule(b.name) for b in s.blocks] for n, s in sites.items()}


def weights_of(block):
    layers = [m for m in block.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return torch.cat([layer.weight.flatten() for layer in layers])


def test_rows_and_scales_are_those_of_the_branches():
    network, sites = found_blocks("in_place")
    site, blocks = sites["3"], (network[3], network[4])
    rows = [torch.cat([b.conv1.weight.flatten(), b.conv2.weight.flatten()]) for b in blocks]
    assert site.rows().shape == (2, max(map(len, rows)))
    for unit, row in enumerate(rows):
        assert torch.equal(site.branches()[unit], row)
        assert torch.equal(site.rows()[unit, : len(row)], row) and not site.rows()[unit, len(row) :].any()
    torch.testing.assert_close(site.gamma(), torch.stack([b.bn2.weight.abs().sum() for b in blocks]))
    assert found_blocks("layers")[1]["layers.0"].gamma() is None
    held = {id(p) for p, at in site.held(torch.tensor([True, False]))}
    assert held == {id(p) for p in network[4].parameters()}


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_reads_a_block_and_all_its_weights_make_it(name):
    """Contract 3: ``reads()`` is empty; a group of ``makes`` or ``both`` is all weights of the branches."""
    network, sites, blocks = fresh(name)
    for site in sites.values():
        assert site.reads().shape == (site.n_units, 0)
        assert float(site.group_norms("reads").max()) < 1e-7
        expected = torch.stack([weights_of(block).double().norm() for block in blocks[site.name]])
        for side in ("makes", "both"):
            torch.testing.assert_close(site.group_norms(side).double(), expected, rtol=1e-6, atol=0)
    sum(site.group_norms("both").sum() for site in sites.values()).backward()
    inside = {id(m.weight) for each in blocks.values() for b in each for m in b.modules() if hasattr(m, "out_features")}
    inside |= {id(m.weight) for each in blocks.values() for b in each for m in b.modules() if isinstance(m, nn.Conv2d)}
    assert {id(p) for p in network.parameters() if p.grad is not None} == inside


@pytest.mark.parametrize("name", LAST)
def test_affine_is_the_last_norm_of_the_branches(name):
    """Contract 3: signed, ``[n_units, channels]``, differentiable."""
    _, sites, blocks = fresh(name)
    for site in sites.values():
        norms = [LAST[name](block) for block in blocks[site.name]]
        (found,) = site.affine()
        for given, part in zip(found[:4], ("weight", "bias", "running_mean", "running_var")):
            assert torch.equal(given, torch.stack([getattr(norm, part) for norm in norms]))
        assert found.eps == norms[0].eps
        assert found.gamma.requires_grad and found.beta.requires_grad
        torch.testing.assert_close(site.gamma(), found.gamma.abs().sum(dim=1))


@pytest.mark.parametrize("name", ["layers", "scaled", "pre_activated"])
def test_branches_without_a_last_norm_have_none(name):
    _, sites, _ = fresh(name)
    for site in sites.values():
        assert site.affine() == [] and site.gamma() is None
        assert site.unfoldable() == "a branch of it ends in no batch norm with a scale"


def test_norms_of_blocks_that_are_not_alike_are_refused():
    network, sites, _ = fresh("in_place")
    network[4].bn2.eps = 1e-3
    with pytest.raises(RunFailed, match="site 3: its blocks end in norms of different size, statistics or eps"):
        sites["3"].affine()


@pytest.mark.parametrize("name", [*LAST, "inverted"])
def test_folded_gate_is_a_gate(name):
    """MR 4(g)3: gamma and beta of the last norms times any factors; the network then is the gated one."""
    network, sites, _ = fresh(name)
    x, gates = images(3), Gates(network, sites)
    factors = {n: torch.rand(s.n_units, generator=torch.Generator().manual_seed(1)) * 2 - 0.5 for n, s in sites.items()}
    with torch.no_grad():
        plain = network(x)
        gates.set(factors)
        gated = network(x)
        gates.remove()
        for site in sites.values():
            site.fold_(factors[site.name])
        scaled = network(x)
    assert (gated - plain).abs().max() > 1e-3
    torch.testing.assert_close(scaled, gated, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_silenced_branches_are_removed_blocks(name):
    """Contract 2.1, scale_: all parts times a mask, and the slice is the network."""
    network, sites, _ = fresh(name)
    masks = {n: torch.arange(site.n_units) % 2 == 0 for n, site in sites.items()}
    with torch.no_grad():
        before = network(images(3))
        for site in sites.values():
            site.scale_(masks[site.name], "makes", EVERYTHING)
        silenced = network(images(3))
        assert (silenced - before).abs().max() > 1e-3
        torch.testing.assert_close(sites.slice(network, masks)(images(3)), silenced, rtol=1e-5, atol=1e-6)


def test_parts_of_a_block_are_separate_and_readers_cannot_be_scaled():
    network, sites, _ = fresh("in_place")
    before, half = {n: t.clone() for n, t in network.state_dict().items()}, torch.tensor([1.0, 0.5])
    for parts, names in (
        (("weight",), {"4.conv1.weight", "4.conv2.weight"}),
        (("bias",), {n for n in ("4.conv1.bias", "4.conv2.bias") if n in before}),
        (("norm",), {"4.bn2.weight", "4.bn2.bias"}),
        (("gamma",), {"4.bn2.weight"}),
    ):
        sites["3"].scale_(half, "makes", parts)
        changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == names and all(torch.equal(network.state_dict()[n], before[n] * 0.5) for n in names)
        network.load_state_dict(before)
    for side in ("reads", "both"):
        with pytest.raises(RunFailed, match="site 3: its units are blocks, which no layer reads"):
            sites["3"].scale_(half, side)
    sites["3"].scale_(half, "reads", strict=False)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


class Two(nn.Module):
    """Two branches whose norms do not stand last, one of them dropped out by the module that ends both."""

    def __init__(self):
        super().__init__()
        relu = nn.ReLU()
        self.one = nn.Sequential(relu, conv(6, 6), nn.BatchNorm2d(6), nn.Sequential(nn.Dropout(0.1), nn.Identity()))
        self.two = nn.Sequential(relu, conv(6, 6), nn.BatchNorm2d(6), relu)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = x + self.drop(self.one(x))
        return x + self.drop(self.two(x))


def test_the_last_norm_is_what_a_branch_ends_in_while_not_training():
    """Dropout behind it, in a sequence or by itself, passes on; an activation does not, also one that is used twice."""
    behind = Added(conv(6, 6), nn.BatchNorm2d(6), nn.Dropout(0.1))
    network = nn.Sequential(*stem(6, nn.ReLU()), behind, Two(), nn.BatchNorm2d(6), *head(6))
    (site,) = find_sites(network, SHAPE, units="depth").values()
    assert [block.norms for block in site.blocks] == [("3.branch.1",), ("4.one.2",)]
    assert site.gamma() is None and site.affine() == []
    network[4].two[3] = nn.Dropout(0.1)
    (site,) = find_sites(network, SHAPE, units="depth").values()
    assert site.blocks[1].norms == ("4.one.2", "4.two.2")
    with pytest.raises(RunFailed, match="norms of different size"):  # one branch, and two
        site.affine()
    norms = [network[3].branch[1], network[4].one[2], network[4].two[2]]
    norms = [norm.weight.abs().sum() for norm in norms]
    torch.testing.assert_close(site.gamma(), torch.stack([norms[0], norms[1] + norms[2]]))
