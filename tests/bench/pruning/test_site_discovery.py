"""Sites of several producers, of units that are several channels, and the reasons why there is none."""

import pytest
import torch
from support.joined_networks import Joined, attention, branches, down, gated_by, group_norm, swiglu, transposed
from support.networks import SHAPE, conv, half_masks, head, images, randomised
from torch import nn

from bench.errors import RunFailed
from bench.measure import flops
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites


def checked(network, coupling="inner"):
    """The sites of a network; gate, slice and cost model agree on a random half of each."""
    network = randomised(network)
    sites = find_sites(network, SHAPE, coupling)
    masks = half_masks(sites)
    sliced = sites.slice(network, masks)
    assert gate_slice_difference(network, sliced, sites, masks, images()) <= 1e-4
    model = CostModel(network, sites, SHAPE)
    kept = model.array({name: int(mask.sum()) for name, mask in masks.items()})
    assert (model.macs(kept), model.params(kept)) == (flops.count(sliced, SHAPE).total, flops.parameters(sliced))
    return sites


# --- several producers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identity", "has"), [(False, True), (True, False)])
def test_parallel_branches_are_inner_unless_the_stream_continues(identity, has):
    sites = checked(branches(identity))
    assert ("conv3" in sites) is has
    assert checked(branches(identity), "full")["stem" if identity else "conv3"].n_units == 6
    if identity:
        assert "3 layers produce it together" in sites.rejected["stem"]


def test_a_gate_of_two_layers_has_both_as_producers():
    site = checked(swiglu())["gate"]
    assert site.producers == ("gate", "value")
    assert site.rows().shape == (9, 12)


def test_deep_branch_next_to_a_short_one_is_inner():
    def forward(self, x):
        x = self.stem(x).relu()
        return self.rest(self.short(x) + self.deep(self.first(x).relu()))

    layers = {"stem": conv(3, 6), "short": conv(6, 7, 1), "first": conv(6, 4), "deep": conv(4, 7)}
    sites = checked(Joined(forward, **layers, rest=down(7)))
    assert sites.widths == {"stem": 6, "short": 7, "first": 4, "rest.0": 5}


# --- units of several channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [2, 4, 12])
def test_whole_groups_of_a_norm_are_units(groups):
    network = group_norm(groups)
    sites = checked(network)
    assert sites.widths == {"0": groups, "3": 5}
    each = 12 // groups
    sliced = sites.slice(network, sites.ones() | {"0": torch.arange(groups) > 0})
    assert (sliced[1].num_groups, sliced[1].num_channels) == (groups - 1, 12 - each)
    assert torch.equal(sliced[0].weight, network[0].weight[each:])


def test_groups_of_several_norms_that_overlap_are_one_unit():
    layers = conv(3, 12), nn.GroupNorm(6, 12, affine=False), nn.ReLU(), nn.GroupNorm(4, 12), conv(12, 5), *head(5)
    assert checked(nn.Sequential(*layers)).widths == {"0": 2, "4": 5}  # groups of 2 and of 3 overlap


def test_units_of_a_gated_layer_are_pairs():
    network = gated_by(lambda x: x.tensor_split(2, dim=1))
    site = checked(network)["up"]
    weight = network.up.weight.flatten(1)
    assert torch.equal(site.rows(), torch.cat([weight[:6], weight[6:]], dim=1))


def test_a_transposed_convolution_is_sliced_at_both_sides():
    network = transposed()
    sites = checked(network)
    masks = sites.ones() | {"0": torch.arange(6) > 3, "5": torch.arange(7) > 4}
    sliced = sites.slice(network, masks)
    assert (sliced[2].in_channels, sliced[2].groups, sliced[5].in_channels, sliced[5].out_channels) == (2, 2, 2, 2)
    assert torch.equal(sliced[5].weight, network[5].weight[4:, 5:])
    assert torch.equal(sites["5"].rows(), network[5].weight.transpose(0, 1).flatten(1))


def test_heads_follow_the_numbers_of_their_module():
    network = attention()
    sites = checked(network)
    sliced = sites.slice(network, sites.ones() | {"attend.qkv": torch.tensor([True, False, False])})
    assert (sliced.attend.num_heads, sliced.attend.inner, sliced.attend.head_dim) == (1, 4, 4)
    assert (network.attend.num_heads, network.attend.inner) == (3, 12)


def test_heads_whose_width_the_code_computes_are_rejected():
    """With fewer heads it would make each of them wider."""

    def attend(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.mT).softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.out(x + self.attend(x)).mean(dim=1))

    layer = Joined(attend, qkv=nn.Linear(12, 36), proj=nn.Linear(12, 12))
    layer.num_heads = 3
    layers = {"patches": nn.Conv2d(3, 12, 4, 4), "attend": layer, "out": nn.Linear(12, 5), "fc": nn.Linear(5, 4)}
    sites = checked(Joined(forward, **layers))
    assert sites.widths == {"out": 5}
    assert "layer attend (Joined), input 2x4x12: RuntimeError: shape" in sites.rejected["attend.qkv"]


def test_the_reason_comes_before_what_makes_the_output():
    layers = conv(3, 8), nn.Softmax(1), *head(8)
    with pytest.raises(RunFailed, match=r"0: 1 \(Softmax\) depends on all .*; 4: it makes the network's output"):
        find_sites(nn.Sequential(*layers), SHAPE)


@pytest.mark.parametrize(("groups", "shape"), [(1, SHAPE), (2, (3, 16, 16))])
def test_parts_with_widths_in_the_code_reject_their_maker_only(groups, shape):
    def forward(self, x):
        left, right = self.stem(x).split(8, dim=1)
        return self.rest(torch.cat([self.left(left), self.right(right)], 1).relu())

    parts = {name: conv(8, 8, groups=groups) for name in ("left", "right")}
    sites = find_sites(Joined(forward, stem=conv(3, 16), **parts, rest=down(16)), shape)
    assert set(sites) <= {"left", "right", "rest.0"}
    assert "rest.0" in sites
    assert "its slice fails at" in sites.rejected["stem"]


@pytest.mark.parametrize("at", [4, 12])
def test_a_split_at_a_fixed_place_is_never_accepted(at):
    """Where only units behind it are removed, the slice would be right by chance."""

    def forward(self, x):
        left, right = self.stem(x).tensor_split((at,), dim=1)
        return self.rest(left.mean((1, 2, 3))[:, None, None, None] + self.right(right))

    layers = {"stem": conv(3, 16), "right": conv(16 - at, 6), "rest": down(6)}
    assert "stem" not in checked(Joined(forward, **layers))


# --- one bad site among many ---------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Six channels by its code."""

    def forward(self, x):
        return x.view(len(x), 6, *x.shape[2:])


@pytest.mark.parametrize("bad", [(3,), (1, 4), (0, 1, 2, 3, 4)])
def test_bad_sites_are_found_and_no_others(bad):
    layers = [layer for k in range(5) for layer in (conv(6 if k else 3, 6), Fixed() if k in bad else nn.ReLU())]
    sites = find_sites(nn.Sequential(*layers, conv(6, 4), *head(4)), SHAPE)
    assert list(sites) == [str(2 * k) for k in range(5) if k not in bad] + ["10"]
    for k in bad:
        assert f"layer {2 * k + 1} (Fixed), input 2x" in sites.rejected[str(2 * k)]


# --- no site -------------------------------------------------------------------------------------------------------


def streams(blocks):
    """Residual blocks of one layer: no width inside."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.fc(x.mean((2, 3)))

    layers = nn.ModuleList(conv(8, 8) for _ in range(blocks))
    return Joined(forward, stem=conv(3, 8), blocks=layers, fc=nn.Linear(8, 4))


def test_without_a_site_the_other_coupling_is_named_first():
    with pytest.raises(RunFailed, match=r"no site .* \(--coupling full has 1 of 8 units; stem: 3 layers"):
        find_sites(streams(2), SHAPE)
    assert find_sites(streams(2), SHAPE, "full").widths == {"stem": 8}


def test_reasons_of_one_kind_are_named_once():
    norms = [layer for _ in range(40) for layer in (conv(8, 8), nn.GroupNorm(1, 8))]
    with pytest.raises(RunFailed) as caught:
        find_sites(nn.Sequential(conv(3, 8), nn.GroupNorm(1, 8), *norms, *head(8)), SHAPE)
    assert "(GroupNorm) depends on all its units at once (40 more like it)" in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.PReLU, lambda width: nn.InstanceNorm2d(width, affine=True)])
def test_layer_over_a_single_unit_passes_it_on(norm):
    """A norm of one channel is no producer, although one group of one channel looks like a convolution's."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 1), norm(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
    sites = find_sites(network, (1, 8, 8))
    assert sites.widths == {"0": 4, "1": 1, "3": 4}
    assert all(site.rows().numel() for site in sites.values())
