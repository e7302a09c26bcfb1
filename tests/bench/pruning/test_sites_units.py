"""Units that are several channels: groups of a convolution; and layers that scale units."""

import pytest
import torch
from support.networks import CASES, Encoder, all_kinds, found, half_masks, images
from torch import nn

from bench.pruning.gates import Gates
from bench.pruning.site_discovery import find_sites
from bench.training.checkpoint import load_tensors, save_tensors


def observed(network, sites, x):
    seen, gates = {}, Gates(network, sites)
    gates.observe(seen.__setitem__)
    with torch.no_grad():
        network(x)
    gates.remove()
    return seen


def test_the_units_of_a_grouped_convolution_are_its_groups():
    network, sites = found("grouped")
    site = sites["0"]
    assert (site.producers, site.norms) == (("0",), ("1", "4"))
    cuts = {cut.layer: (cut.side, cut.units.tolist()) for cut in site.cuts}
    pairs, triples = [k // 2 for k in range(8)], [k // 3 for k in range(12)]
    expected = {"0": ("out", pairs), "1": ("both", pairs), "3": ("both", triples), "4": ("both", triples)}
    assert cuts == expected | {"6": ("in", triples)}
    masks = sites.ones() | {"0": torch.tensor([True, False, True, False])}
    sliced = sites.slice(network, masks)
    assert (sliced[3].groups, sliced[3].in_channels, sliced[3].out_channels) == (2, 4, 6)
    assert torch.equal(sliced[3].weight, network[3].weight[[0, 1, 2, 6, 7, 8]])
    assert torch.equal(sliced[0].weight, network[0].weight[[0, 1, 4, 5]])
    assert torch.equal(sliced[6].weight, network[6].weight[:, [0, 1, 2, 6, 7, 8]])


def test_what_a_site_of_groups_says_of_its_weights():
    network, sites = found("grouped")
    site, weight = sites["0"], network[0].weight  # 8 filters of 3 x 3x3
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert torch.equal(site.rows(), torch.stack([weight[[a, b]].flatten() for a, b in pairs]))
    assert [w.shape for w in site.weights()] == [(4, 2 * 3, 3, 3)]
    assert site.kernels().shape == (4, 2 * 3, 9)
    assert torch.equal(site.kernels()[1, 3:], weight[3].flatten(1))
    first, second = network[1], network[4]
    by_pair, by_triple = first.weight.abs().unflatten(0, (4, 2)), second.weight.abs().unflatten(0, (4, 3))
    torch.testing.assert_close(site.gamma(), by_pair.sum(dim=1) + by_triple.sum(dim=1))
    factors = [
        (norm.weight.abs() / (norm.running_var + norm.eps).sqrt()).unflatten(0, (4, -1)).mean(dim=1)
        for norm in (first, second)
    ]
    torch.testing.assert_close(site.effective_norm(), site.rows().norm(dim=1) * (factors[0] + factors[1]) / 2)
    assert site.rows().requires_grad


def test_activations_of_a_site_of_groups_are_unit_by_unit():
    network, sites = found("grouped")
    x = images()
    seen = observed(network, sites, x)["0"]
    assert seen.shape == (2, 4, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(seen.flatten(1, 2), network[:3](x))


def test_activations_of_heads_are_what_the_projection_reads():
    network, sites = found("encoder")
    read = []
    handle = network.attention.proj.register_forward_pre_hook(lambda m, args: read.append(args[0]))
    seen = observed(network, sites, images())["attention.qkv"]
    handle.remove()
    assert seen.shape == (2, 3, 4, 4)  # examples, heads, channels of a head, tokens
    assert torch.equal(seen.flatten(1, 2), read[0].mT)


def test_masked_units_hold_all_their_weights_in_training(make_training):
    """Also those of the grouped convolution, of the excitation's last layer and of all that makes a head."""
    training = make_training(arch=all_kinds(), weight_decay=0.1)
    ctx, network = training.ctx, training.model.network
    masks = {name: torch.arange(width) > 0 for name, width in ctx.sites.widths.items()}
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    ctx.masks = masks
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(ctx.forward(ctx.x), ctx.y).backward()
        optimizer.step()
        ctx._model.after_step()
    heads = [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27]
    held = {"0.weight": [0, 1], "1.weight": [0, 1], "3.weight": [0, 1, 2], "4.bias": [0, 1, 2]}
    held |= {"6.fc1.weight": [0], "6.fc2.weight": [0, 1, 2], "6.fc2.bias": [0, 1, 2]}
    held |= {"7.mlp.0.weight": [0], "7.attention.qkv.weight": heads, "7.attention.qkv.bias": heads}
    after = dict(network.named_parameters())
    for name, rows in held.items():
        others = [k for k in range(len(before[name])) if k not in rows]
        assert torch.equal(after[name][rows], before[name][rows]), name
        assert not torch.equal(after[name][others], before[name][others]), name


@pytest.mark.parametrize("case", ["grouped", "excited", "encoder"])
def test_slice_is_saved_and_loaded_again(case, tmp_path):
    network, sites = found(case)
    masks = half_masks(sites)
    sliced = sites.slice(network, masks)
    save_tensors(tmp_path / "network.safetensors", sliced.state_dict())
    again = sites.slice(CASES[case][0](), masks).eval()
    again.load_state_dict(load_tensors(tmp_path / "network.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(images()), sliced(images()))


def test_excitation_is_sliced_and_is_not_a_producer():
    assert found("excited_stream")[1]["0"].producers == ("0", "2.body.2")
    network, sites = found("excited")
    site = sites["0"]
    assert site.producers == ("0",)
    assert torch.equal(site.rows(), network[0].weight.flatten(1))
    sliced = sites.slice(network, sites.ones() | {"0": torch.tensor([True, False] * 3)})
    assert (sliced[3].fc1.in_channels, sliced[3].fc2.out_channels) == (3, 3)
    assert torch.equal(sliced[3].fc2.weight, network[3].fc2.weight[::2])


class Positions(Encoder):
    """With what no layer draws: a bare parameter."""

    def __init__(self):
        super().__init__(1, classes=10)
        self.position = nn.Parameter(torch.full((12, 8, 8), 0.5))
        self.between = nn.Conv2d(1, 12, 1)
        self.patches = nn.Conv2d(12, 12, 4, 4)

    def forward(self, x):
        return super().forward(self.between(x) + self.position)


def test_fresh_weights_forget_what_training_made_of_bare_parameters(make_ctx):
    ctx = make_ctx(arch=Positions())
    first = {name: p.detach().clone() for name, p in ctx._model.network.named_parameters()}
    with torch.no_grad():
        for parameter in ctx._model.network.parameters():
            parameter.add_(1)
    ctx.rewind("fresh")
    now = dict(ctx._model.network.named_parameters())
    assert torch.equal(now["position"], first["position"])
    for name in ("patches.weight", "attention.qkv.weight", "mlp.0.weight"):
        assert not torch.equal(now[name], first[name])
        assert now[name].mean().abs() < 0.2  # nothing of the 1 that was added
    assert "between" not in find_sites(Positions(), (1, 8, 8))
