"""The cost of any widths with any blocks, exactly (B2), also of a network that blocks have left already."""

import numpy as np
import pytest
import torch
from support.block_networks import BLOCKS, found_blocks, random_masks
from support.networks import SHAPE

from bench.measure import flops
from bench.models.build import build
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import find_sites


def require_exact(network, sites, model, shape, draws):
    """Model and fvcore agree on random masks of widths and blocks, and so do widths that are read off the slice."""
    for seed in range(draws):
        masks = random_masks(sites, seed)
        sliced, vector = sites.slice(network, masks), model.array(masks)
        assert model.macs(vector) == flops.traced(sliced, shape).total, (seed, masks)
        assert model.params(vector) == flops.parameters(sliced), (seed, masks)
        assert np.array_equal(model.widths_of(sliced), vector)
        fixed = model.without(vector)  # of what is left, widths alone are free
        left = np.array([width for width, name in zip(vector, model.names) if name in fixed.names], dtype=np.int64)
        assert (fixed.macs(left), fixed.params(left)) == (model.macs(vector), model.params(vector))


COUPLINGS = (("both", "full"), ("both", "inner"), ("depth", "inner"))


@pytest.mark.parametrize("name", BLOCKS)
def test_cost_of_widths_and_blocks_is_exact(name):
    """B2, on small networks: 2 draws of widths and blocks; of one network each coupling, and blocks alone."""
    for units, coupling in COUPLINGS if name == "depth_A" else COUPLINGS[:1]:
        network, sites = found_blocks(name, units, coupling)
        model = CostModel(network, sites, SHAPE)
        assert model.macs(model.dense) == flops.count(network, SHAPE).total
        assert model.params(model.dense) == flops.parameters(network)
        require_exact(network, sites, model, SHAPE, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_cost_is_exact_in_a_hundred_draws(name):
    """B2, on small networks; with coupling ``full``, which has the sites of ``inner`` and more."""
    for units, coupling in COUPLINGS:
        network, sites = found_blocks(name, units, coupling)
        model = CostModel(network, sites, SHAPE)
        assert model.macs(model.dense) == flops.count(network, SHAPE).total
        assert model.params(model.dense) == flops.parameters(network)
        require_exact(network, sites, model, SHAPE, 100 if coupling == "full" else 10)


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["inner", "full"])
@pytest.mark.parametrize(
    ("name", "side"),
    [
        *((name, 32) for name in ("resnet20", "resnet20b", "resnet56", "wrn16_4", "mobilenet_v2_cifar")),
        *((name, 32) for name in ("vit_small_cifar", "convnext_tiny", "torchvision:resnet50")),
        *(
            (f"torchvision:{name}", 64)
            for name in ("efficientnet_b0", "regnet_y_400mf", "mobilenet_v3_small", "swin_t")
        ),
    ],
)
def test_cost_of_known_networks_is_exact(name, side, coupling):
    """B2, on whole networks: each draw has tens of sites and blocks; the small ones have a hundred."""
    shape = (3, side, side)
    network = build(name, shape, 10)
    sites = find_sites(network, shape, coupling, "both")
    require_exact(network, sites, CostModel(network, sites, shape), shape, 12)


@pytest.mark.parametrize("coupling", ["inner", "full"])
def test_cost_after_a_slice_is_that_of_what_is_left(coupling):
    """A second slice: the model without the blocks that are gone, with the sites that are left."""
    network, sites = found_blocks("depth_A", "both", coupling)
    model = CostModel(network, sites, SHAPE)
    for seed in range(6):
        first = random_masks(sites, seed)
        sliced = sites.slice(network, first)
        left, costs = sites.reindex_after(first, sliced), model.without(model.array(first), free=True)
        assert [*costs.names, *costs.blocks] == list(left)
        assert np.array_equal(costs.widths_of(sliced), costs.array(left.ones()))
        for again in range(3):
            second = random_masks(left, 100 + again)
            smaller, vector = left.slice(sliced, second), costs.array(second)
            assert costs.macs(vector) == model.macs(model.widths_of(smaller)) == flops.traced(smaller, SHAPE).total
            assert costs.params(vector) == flops.parameters(smaller)
            assert np.array_equal(costs.widths_of(smaller), vector)


def test_vectors_by_hand():
    network, sites = found_blocks("depth_A")
    model = CostModel(network, sites, SHAPE)
    assert model.names == [f"{k}.body.0" for k in range(1, 7)]
    masks = sites.ones() | {"1": torch.tensor([True, False, True]), "6.body.0": torch.arange(8) < 3}
    assert model.array(masks).tolist() == [4, 0, 4, 8, 8, 3, 1, 0, 1, 1, 1]  # the second block's width is absent
    assert model.array(sites.widths | {"5": 1}).tolist() == [4, 4, 4, 8, 8, 0, 1, 1, 1, 1, 0]
    dense, one = model.macs(model.dense), model.macs(model.array(sites.ones() | {"1": masks["1"]}))
    assert dense - one == 2 * 9 * 4 * 4 * 64 + 2 * 2 * 4 * 64  # two convolutions, two norms
    inside = model.macs_within(["2"], model.dense)
    assert inside == dense - one and model.macs_within(["2"], model.array(masks)) == 0
