"""``bench.prune`` with each method of the registry that starts from a trained network."""

import pytest
import torch
from support.networks import GREY, SHAPE, hooks_of, three_sites
from support.scripts_of_users import batches, example, prepared, same, state_of, world

import bench
from bench.conformance.tiny_networks import depth
from bench.measure import flops
from bench.spec.registry import METHODS
from bench.training.context import Context
from bench.training.method import Method

FROM_BASE = [
    name
    for name in sorted(METHODS.entries())
    if (cls := METHODS.get(name)).plan is Method.plan and (cls.starts_from, cls.active) == ("base", "before")
]
"""Of the registry: all that start from a trained network and have the default plan."""
OF_BLOCKS = [name for name in FROM_BASE if METHODS.get(name).kinds == ("block",)]
OF_CHANNELS = [name for name in FROM_BASE if name not in OF_BLOCKS]
ONE_OF_A_KIND = ("l1_norm", "taylor", "tp_random", "tp_taylor", "refit_bn", "refit_ridge")
"""Of weights, of gradients, in torch-pruning without and with gradients, layers trained again or solved for."""


def marked(names, fast=ONE_OF_A_KIND):
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def test_all_of_the_registry_are_tried():
    assert len(OF_CHANNELS) >= 19
    assert {"l1_norm", "taylor", "tp_obdc", "refit_ridge", "hrank"} <= set(OF_CHANNELS)
    assert {"block_l1", "block_taylor"} <= set(OF_BLOCKS)


@pytest.mark.parametrize("method", marked(OF_CHANNELS))
def test_slice_is_exact_and_what_is_given_stays(method):
    network = prepared()
    before, outside = state_of(network), world()
    made = bench.prune(network, example(), batches(), method=method, keep_macs=0.5)
    assert same(before, state_of(network))
    assert outside == world()
    assert not {t.data_ptr() for t in made.network.parameters()} & {t.data_ptr() for t in network.parameters()}
    assert made.difference <= 1e-4
    dense, pruned = made.cost["dense"]["macs"], made.cost["pruned"]["macs"]
    assert 0.45 < pruned / dense <= 0.5
    assert flops.count(made.network, GREY).total == pruned
    assert not hooks_of(made.network)
    assert sum(p.numel() for p in made.network.parameters()) == made.cost["pruned"]["params"]


@pytest.mark.slow
@pytest.mark.parametrize("method", OF_BLOCKS)
def test_methods_of_blocks_work(method):
    network = depth("A")
    before, outside = state_of(network), world()
    made = bench.prune(network, example(SHAPE), batches(SHAPE, classes=4), method=method, units="depth", keep_macs=0.6)
    assert same(before, state_of(network))
    assert outside == world()
    assert made.difference <= 1e-4
    assert flops.count(made.network, SHAPE).total == made.cost["pruned"]["macs"] <= 0.6 * made.cost["dense"]["macs"]
    assert not hooks_of(made.network)


@pytest.mark.parametrize("method", marked(OF_CHANNELS, ("taylor", "tp_taylor")))
def test_what_is_given_stays_after_an_error(method, monkeypatch):
    """The error comes when the method has done its work, and nobody tidied."""

    def select(ctx):
        torch.manual_seed(5)
        torch.set_default_dtype(torch.float64)
        ctx.gate({name: torch.zeros(site.n_units) for name, site in ctx.sites.items()})
        raise ValueError("broken")

    monkeypatch.setattr(Context, "select", select)
    network = prepared()
    before, outside = state_of(network), world()
    with pytest.raises(bench.RunFailed, match="fails: ValueError: broken"):
        bench.prune(network, example(), batches(), method=method, keep_macs=0.5)
    assert same(before, state_of(network))
    assert outside == world()


READ_NONE = {
    *("bn_scale", "ebn", "fpgm", "l1_norm", "l2_norm", "random"),
    *("tp_bn_scale", "tp_fpgm", "tp_l1_first", "tp_lamp", "tp_magnitude", "tp_random"),
}


def test_methods_of_weights_read_no_batch():
    class Refusing:
        batch_size = 8

        def __iter__(self):
            raise AssertionError("a batch was read")

    for method in READ_NONE:
        bench.prune(three_sites(), example(), Refusing(), method=method, keep_macs=0.5)
