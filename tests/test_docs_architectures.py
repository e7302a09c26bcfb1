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


def test_page_has_every_name_once():
    assert sorted(row[0] for row in ROW.findall(TEXT)) == list(ARCHS.entries())


LARGE = 5_000_000
"""Parameters of a network whose building takes too long for every day."""


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_numbers_of_page_are_those_of_built_networks(large):
    rows = [row for row in ROW.findall(TEXT) if (int(row[-1].replace(",", "")) > LARGE) == large]
    assert rows
    for name, smallest, *shape, classes, params in rows:
        network = build(name, tuple(map(int, shape)), int(classes))
        assert f"{flops.parameters(network):,}" == params, name
        assert ARCHS.get(name).min_size == int(smallest), name


@pytest.mark.usefixtures("forgets")
def test_model_file_of_the_example(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PLUGINS", [])
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    file = tmp_path / "my_net.py"
    file.write_text(block)
    network = build(model_name(f"file:{file}:small"), (1, 8, 8), 10)
    sites = find_sites(network, (1, 8, 8))
    assert sites.widths == {"stem.0": 8, "excitation.squeeze": 8, "block.mlp.0": 64, "block.attention.qkv": 4}
    masks = half_masks(sites)
    assert gate_slice_difference(network, sites.slice(network, masks), sites, masks, images(2, (1, 8, 8))) <= 1e-4
