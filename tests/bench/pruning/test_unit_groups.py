"""Weights that read a unit, norms and scalings of groups, norms of a site; MR and contract numbers in docstrings."""

import pytest
import torch
from support.networks import CASES, SHAPE, found, half_masks, images, made
from torch import nn

from bench.errors import RunFailed
from bench.models.layers import ChannelPad
from bench.pruning.gates import Gates
from bench.pruning.site_discovery import find_sites
from bench.pruning.slicing import TRANSPOSED

EVERYTHING = ("weight", "bias", "norm")


def fresh(case):
    """Network and sites of ``case`` that a test may change."""
    network = made(case)
    return network, found(case)[1].bind(network)


def by_hand(site, unit):
    """All weights that read one unit, ``W[:, positions of u]`` reader by reader."""
    parts = []
    for tap in site.consumers:
        layer = site.network.get_submodule(tap.layer)
        if isinstance(layer, ChannelPad):
            continue
        weight = layer.weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else layer.weight
        parts.append(weight[:, [int(p) for p, u in zip(tap.positions, tap.units) if u == unit]].flatten())
    return torch.cat(parts)


@pytest.mark.parametrize("case", CASES)
def test_reads_are_the_columns_of_all_readers(case):
    """Contract 2.1, reads: row u is the concatenation of ``W[:, positions of u]``; every network, both couplings."""
    _, sites = found(case)
    for site in sites.values():
        reads = site.reads()
        assert torch.equal(reads, torch.stack([by_hand(site, unit) for unit in range(site.n_units)]))
        assert reads.shape[1] > 0


def test_reads_of_a_flattened_map_have_all_positions():
    network, sites = found("conv_flatten")
    reads = sites["3"].reads()  # 5 units at 4 positions, read by 7 neurons
    assert reads.shape == (5, 7 * 4)
    assert torch.equal(reads[2], network[7].weight[:, 8:12].flatten())


def test_gradient_of_reads_reaches_the_reader_and_nothing_else():
    for case in ("conv_flatten", "transposed", "residual_A_full"):
        network, sites = fresh(case)
        for site in sites.values():
            network.zero_grad(set_to_none=True)
            site.reads().square().sum().backward()
            touched = {n.rpartition(".")[0] for n, p in network.named_parameters() if p.grad is not None}
            weightless = {n for n, m in network.named_modules() if isinstance(m, ChannelPad)}
            assert touched == {tap.layer for tap in site.consumers} - weightless


def test_permuted_units_permute_the_rows_of_reads():
    network, sites = fresh("doubled")  # each unit is read at two places that are far apart
    site, order = sites["0"], torch.tensor([3, 0, 4, 1, 2])
    before = site.reads().detach().clone()
    with torch.no_grad():
        reader = network[3]
        reader.weight.copy_(reader.weight[:, torch.cat([order, order + 5])])
    assert torch.equal(site.reads(), before[order])


def test_reads_of_a_site_that_a_pad_reads_too():
    """MR 0.4.10: a reader need not have a weight."""
    _, sites = found("residual_A_full")
    padded = [
        s for s in sites.values() if any(isinstance(s.network.get_submodule(t.layer), ChannelPad) for t in s.consumers)
    ]
    assert padded
    for site in padded:
        convs = [t for t in site.consumers if not isinstance(site.network.get_submodule(t.layer), ChannelPad)]
        assert site.reads().shape[1] == sum(site.network.get_submodule(t.layer).weight[:, 0].numel() for t in convs)


# --- norms of groups -------------------------------------------------------------------------------------------------


def two_layers(first, second):
    """Linear layers with these weights ``[in, out]`` around one site of neurons."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(*map(int, first.shape)), nn.ReLU(), nn.Linear(*map(int, second.shape))
    )
    with torch.no_grad():
        network[1].weight.copy_(first.T)
        network[3].weight.copy_(second.T)
    (site,) = find_sites(network, (first.shape[0],)).values()
    return site


def test_group_norms_by_hand():
    """MR 1(g)1: of ``W = [[3, 0], [4, 0]]`` ([in, out]) li is 5 and lo is 7; neither depends on the neurons' order."""
    W = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    for order in ([0, 1], [1, 0]):
        assert two_layers(W[:, order], torch.eye(2)).group_norms("makes").sum().item() == pytest.approx(5)
        assert two_layers(torch.eye(2), W[order]).group_norms("reads").sum().item() == pytest.approx(7)
    W = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    li = two_layers(W, torch.zeros(6, 4)).group_norms("makes").sum()
    lo = two_layers(torch.zeros(4, 6), W.T).group_norms("reads").sum()
    assert li.item() == pytest.approx(lo.item(), rel=1e-6)  # li(W) = lo(W.T)


@pytest.mark.parametrize("case", CASES)
def test_squares_of_both_sides_add_up(case):
    """Contract 2.1, norms: the group ``both`` is all weights of a unit."""
    _, sites = found(case)
    for site in sites.values():
        makes, reads, both = (site.group_norms(side).double() for side in ("makes", "reads", "both"))
        assert torch.allclose(makes.square() + reads.square(), both.square(), rtol=1e-5)
        assert torch.allclose(makes, site.rows().double().norm(dim=1), rtol=1e-5)
        for p in (1, 3):
            expected = torch.cat([site.rows(), site.reads()], dim=1).double().norm(p=p, dim=1)
            assert torch.allclose(site.group_norms("both", p).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_group_norms_of_a_dead_unit_have_a_finite_gradient(p):
    """Contract 2.1, norms: zero is where penalties lead to."""
    network, sites = fresh("residual_B_full")
    for site in sites.values():
        site.scale_(torch.arange(site.n_units) > 0, "both")
        network.zero_grad()
        site.group_norms("both", p).sum().backward()
        assert all(q.grad.isfinite().all() for q in network.parameters() if q.grad is not None)
        assert network.get_submodule(site.name).weight.grad[0].abs().max() == 0


def test_wrong_side_or_part_is_said():
    site = fresh("mlp")[1]["1"]
    ones = torch.ones(9)
    for call, why in (
        (lambda: site.group_norms("in"), "side 'in': makes, reads or both"),
        (lambda: site.scale_(ones, "out"), "side 'out': makes, reads or both"),
        (lambda: site.scale_(ones, "makes", ("beta",)), "of weight, bias, norm"),
        (lambda: site.scale_(ones[:3], "makes"), r"factors \[3\], not \[9\]"),
    ):
        with pytest.raises(RunFailed, match=why) as failed:
            call()
        assert failed.value.blame == "method"


# --- scaling ---------------------------------------------------------------------------------------------------------


def weightless(site):
    return any(isinstance(site.network.get_submodule(tap.layer), ChannelPad) for tap in site.consumers)


@pytest.mark.parametrize("case", CASES)
def test_scaled_readers_are_a_gate(case):
    """Contract 2.1, scale_: a gate by any factors equals ``scale_(factors, "reads")``, which is fold_, to 1e-6."""
    network, sites = fresh(case)
    x = images()
    for name, site in sites.items():
        factors = torch.rand(site.n_units) * 2 - 0.5
        assert (site.unfoldable() is not None) == weightless(site)
        if weightless(site):
            assert site.unfoldable().endswith("reads it and has no weight that could be scaled")
            with pytest.raises(RunFailed, match="has no weight that could be scaled"):
                site.fold_(factors)
            continue
        gates = Gates(network, sites)
        gates.set({name: factors})
        with torch.no_grad():
            gated = network(x)
            gates.remove()
            plain = network(x)
            site.fold_(factors)
            scaled = network(x)
        assert (gated - plain).abs().max() > 1e-4
        assert (gated - scaled).abs().max() <= 1e-6 * max(1.0, float(gated.abs().max()))


def test_gates_of_all_sites_are_folded_at_once():
    (network, sites), x = fresh("conv_bn"), images()
    factors = {name: torch.rand(site.n_units) for name, site in sites.items()}
    gates = Gates(network, sites)
    gates.set(factors)
    with torch.no_grad():
        gated = network(x)
        gates.remove()
        sites.fold_(factors)
        assert torch.allclose(network(x), gated, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c != "sigmoid"])
def test_silenced_makers_are_sliced_units(case):
    """Contract 2.1, scale_: all parts times a mask, and the slice is the network. A sigmoid of zero is not zero."""
    network, sites = fresh(case)
    masks, x = half_masks(sites), images()
    with torch.no_grad():
        before = network(x)
        for name, site in sites.items():
            site.scale_(masks[name], "makes", EVERYTHING)
        silenced = network(x)
        assert (silenced - before).abs().max() > 1e-3
        assert torch.allclose(sites.slice(network, masks)(x), silenced, atol=1e-5)


def test_scaling_by_one_changes_no_bit_and_parts_are_separate():
    network, sites = fresh("conv_bn")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    for site in sites.values():
        site.scale_(torch.ones(site.n_units), "both", EVERYTHING)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    half = torch.full((5,), 0.5)
    for part, names in (("weight", {"3.weight"}), ("bias", {"3.bias"}), ("norm", {"4.weight", "4.bias"})):
        sites["3"].scale_(half, "makes", (part,))
        changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == names
        for name in names:
            assert torch.equal(network.state_dict()[name], before[name] * 0.5)
        network.load_state_dict(before)


def test_weights_of_a_layer_that_passes_units_on_are_left_alone():
    """Twice the weight of a producer and of the depthwise layer behind it would be four times the unit."""
    network, sites = fresh("depthwise")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    sites["0"].scale_(torch.zeros(6), "makes")
    assert {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])} == {"0.weight"}


def test_weights_of_an_excitation_are_no_makers():
    network, sites = fresh("excited")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    sites["0"].scale_(torch.zeros(6), "makes", EVERYTHING)
    changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"0.weight", "1.weight", "1.bias"}


# --- norms of a site -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_affine_is_the_modules_tensors(case):
    """Contract 2.1, affine: also for units of several channels; empty without norm."""
    network, sites = found(case)
    for site in sites.values():
        norms = site.affine()
        assert len(norms) == len(site.norms)
        for name, norm in zip(site.norms, norms, strict=True):
            module = network.get_submodule(name)
            cut = next(cut for cut in site.cuts if cut.layer == name)
            for given, tensor in zip(norm[:4], (module.weight, module.bias, module.running_mean, module.running_var)):
                expected = torch.stack([tensor[cut.positions[cut.units == unit]] for unit in range(site.n_units)])
                assert torch.equal(given, expected.squeeze(1))
            assert norm.eps == module.eps
            assert norm.gamma.requires_grad
            assert norm.beta.requires_grad
    assert found("conv_flatten")[1]["0"].affine() == []


def test_affine_is_signed_and_of_several_channels():
    network, sites = fresh("grouped")  # four units: two channels of the first norm, three of the second
    with torch.no_grad():
        network[1].weight.copy_(torch.arange(8) - 4.0)
    first, second = sites["0"].affine()
    assert first.gamma.tolist() == [[-4, -3], [-2, -1], [0, 1], [2, 3]]
    assert second.gamma.shape == (4, 3)


def test_affine_of_norms_without_parameters_or_statistics():
    norm = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    (found_norm,) = find_sites(network, SHAPE)["0"].affine()
    assert found_norm.gamma.tolist() == [1] * 4
    assert found_norm.beta.tolist() == [0] * 4
    assert found_norm.mean is found_norm.var is None


def test_gamma_alone_and_readers_with_a_weight_alone():
    network, sites = fresh("residual_A_full")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    site = next(s for s in sites.values() if weightless(s))
    site.scale_(torch.full((site.n_units,), 0.5), "makes", ("gamma",))
    assert {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])} == {
        f"{name}.weight" for name in site.norms
    }
    reads = site.reads().detach().clone()
    site.scale_(torch.full((site.n_units,), 0.5), "reads", strict=False)
    assert torch.equal(site.reads(), 0.5 * reads)
