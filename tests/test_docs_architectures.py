"""The page on architectures is true: every name with its numbers, and the model file of the example."""

import re
from pathlib import Path

import pytest
from support.networks import half_masks, images

from bench.measure import flops
from bench.models.build import build
from bench.pruning.gates import gate_slice_difference
from bench.pruning.site_discovery import find_sites
from bench.spec import registry
from bench.spec.registry import ARCHS, model_name

TEXT = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+)x(\d+)x(\d+), (\d+) \| ([\d,]+) \| \S", re.M)


def test_the_page_has_every_name_once():
    assert sorted(row[0] for row in ROW.findall(TEXT)) == list(ARCHS.entries())


@pytest.mark.parametrize("row", ROW.findall(TEXT), ids=lambda row: row[0])
def test_numbers_of_page_are_those_of_built_networks(row):
    name, smallest, *shape, classes, params = row
    network = build(name, tuple(map(int, shape)), int(classes))
    assert f"{flops.parameters(network):,}" == params
    assert ARCHS.get(name).min_size == int(smallest)


def test_the_model_file_of_the_example(tmp_path, monkeypatch):
    for each in (registry.METHODS, ARCHS, registry.DATASETS):
        monkeypatch.setattr(each, "_plugins", dict(each._plugins))
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    file = tmp_path / "my_net.py"
    file.write_text(block)
    before = list(registry.PLUGINS)
    try:
        network = build(model_name(f"file:{file}:small"), (1, 8, 8), 10)
    finally:
        registry.PLUGINS[:] = before
    sites = find_sites(network, (1, 8, 8))
    assert sites.widths == {"stem.0": 8, "excitation.squeeze": 8, "block.mlp.0": 64, "block.attention.qkv": 4}
    masks = half_masks(sites)
    assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images(2, (1, 8, 8))) <= 1e-4
