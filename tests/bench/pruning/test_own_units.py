"""Modules that declare their units: the example of the page, and what happens when they say something wrong."""

import re

import pytest
import torch
from support.networks import half_masks, images
from torch import nn

from bench import api
from bench.errors import RunFailed
from bench.measure import flops
from bench.pruning.channel_tracing import trace
from bench.pruning.cost_model import CostModel
from bench.pruning.gates import gate_slice_difference
from bench.pruning.own_units import has_units
from bench.pruning.site_discovery import find_sites

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def page(pytestconfig):
    """The names that the page's example defines."""
    text = (pytestconfig.rootpath / "docs" / "own_units.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names = {"__name__": "rotary"}
    exec(compile(block, "rotary.py", "exec"), names)
    return names


def test_heads_of_the_example_are_cut_exactly_once_and_again(page):
    network = page["small"](1, 10).double()
    assert has_units(network.attention)
    sites = find_sites(network, SHAPE)
    assert sites.widths == {"mlp.0": 48, "attention.qkv": 4}
    x = images(2, SHAPE).double()
    for masks in (half_masks(sites), {name: torch.arange(width) == 1 for name, width in half_widths(sites).items()}):
        smaller = sites.slice(network, masks)
        assert gate_slice_difference(network, smaller, sites, masks, x, 1e-30) <= 1e-13
        model = CostModel(network, sites, SHAPE)
        kept = model.array({name: int(mask.sum()) for name, mask in masks.items()})
        assert (model.macs(kept), model.params(kept)) == (flops.count(smaller, SHAPE).total, flops.parameters(smaller))
        sites, network = sites.reindex_after(masks, smaller), smaller
    assert network.attention.qkv.out_features == 3 * network.attention.proj.in_features == 18


def half_widths(sites):
    return {name: int(mask.sum()) for name, mask in half_masks(sites).items()}


def test_without_the_declaration_the_operator_is_named(page, monkeypatch):
    monkeypatch.delattr(page["Rotary"], "units")
    monkeypatch.delattr(page["Rotary"], "stand_in")
    assert "view_as_complex" in trace(page["small"](1, 10), SHAPE).fixed("attention.qkv")


HEADS = [channel // 6 for channel in range(24)]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (("q", "proj", 3 * HEADS, HEADS), "units() of attention names 'q', which is no layer inside that can lose"),
        (("qkv", "proj", 2 * HEADS, HEADS), "units() of attention gives units of 48 channels, qkv has 72"),
        (("qkv", "proj", 3 * HEADS, HEADS[::-1]), "the units of proj are not 0, 1, .. in their order, alike for both"),
        (("qkv", "proj", 3 * HEADS, [0] * 24), "the units of proj are not 0, 1, .. in their order, alike for both"),
        (("qkv", "proj", 3 * HEADS, [0] * 7 + HEADS[7:]), "attention.proj has more channels of one unit than of"),
        (("qkv", "proj", 3 * [c // 3 for c in range(24)], [c // 3 for c in range(24)]), "gate and slice disagree by"),
        (("qkv", "proj", [c // 18 for c in range(72)], HEADS), "gate and slice disagree by"),
    ],
)
def test_wrong_declarations_are_rejected_with_their_reason(page, monkeypatch, said, why):
    monkeypatch.setattr(page["Rotary"], "units", lambda self: said)
    sites = find_sites(page["small"](1, 10), SHAPE)
    (name,) = set(sites.rejected) - {"patches", "fc"}
    assert name.startswith("attention.")
    assert why in sites.rejected[name]


def test_protocol_is_part_of_the_interface():
    assert {"units", "stand_in"} <= set(vars(api.OwnUnits))
    assert has_units(api.Attention(12, 3))
    assert not has_units(nn.Linear(2, 2))
    with pytest.raises(RunFailed, match="no site"):
        find_sites(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SHAPE)
