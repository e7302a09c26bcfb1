"""Blocks that ``bench.prune`` removes, and widths in steps of several channels."""

import pytest
import torch
from support.networks import GREY, SHAPE, three_sites
from support.scripts_of_users import batches, example

import bench
from bench.conformance.tiny_networks import depth
from bench.measure import flops


def network():
    return depth("A").eval()


@pytest.mark.parametrize(("units", "method"), [("depth", "block_taylor"), ("both", "random")])
def test_blocks_are_removed_saved_and_carried_over(units, method, tmp_path):
    dense = network()
    optimizer = torch.optim.SGD(dense.parameters(), 0.1, momentum=0.9)
    data = batches(SHAPE, classes=4)
    dense(data[0][0]).sum().backward()
    optimizer.step()
    made = bench.prune(dense, example(SHAPE), data, method=method, units=units, keep_macs=0.8)
    blocks = {name: pair for name, pair in made.widths.items() if name in made._known.costs.blocks}
    assert sum(before - after for before, after in blocks.values()) > 0
    assert (len(blocks) < len(made.widths)) == (units == "both")
    assert made.difference <= 1e-4
    assert flops.count(made.network, SHAPE).total == made.cost["pruned"]["macs"] <= 0.8 * made.cost["dense"]["macs"]
    made.save(tmp_path / "small.safetensors")
    loaded, info = bench.load(tmp_path / "small.safetensors", build=network)
    assert torch.equal(loaded(data[0][0]), made.network(data[0][0]))
    assert info["widths"] == {name: list(pair) for name, pair in made.widths.items()}
    mapped = made.optimizer(optimizer)
    assert {id(p) for p in mapped.param_groups[0]["params"]} == {id(p) for p in made.network.parameters()}
    less = bench.prune(made, example(SHAPE), data, method=method, keep_macs=0.6)
    assert less.cost["pruned"]["macs"] <= 0.6 * less.cost["dense"]["macs"]
    assert not any((mask & ~made.masks[name]).any() for name, mask in less.masks.items())
    less.save(tmp_path / "less.safetensors")
    loaded, _ = bench.load(tmp_path / "less.safetensors", build=network)
    assert torch.equal(loaded(data[0][0]), less.network(data[0][0]))


def test_floor_of_blocks_is_said():
    with pytest.raises(bench.UsageError, match=r"keep_macs=0.05 cannot be met: \d of the \d blocks already cost 0"):
        bench.prune(network(), example(SHAPE), method="block_l1", units="depth", keep_macs=0.05)


def test_widths_are_multiples_of_the_step():
    made = bench.prune(three_sites(), example(), keep_macs=0.5, round_to=4)
    assert all(after % 4 == 0 or after == before for before, after in made.widths.values())
    assert made.cost["pruned"]["macs"] <= 0.5 * made.cost["dense"]["macs"]
    assert flops.count(made.network, GREY).total == made.cost["pruned"]["macs"]
    further = bench.prune(made, example(), keep_macs=0.3, round_to=4)
    assert all(after % 4 == 0 or after == before for before, after in further.widths.values())
