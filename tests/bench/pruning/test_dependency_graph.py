"""Torch-pruning's dependency graph, which its importances need."""

import pytest
from support.joined_networks import HARD
from support.networks import SHAPE
from torch import nn

from bench.errors import RunFailed
from bench.pruning.dependency_graph import graph_of


@pytest.mark.parametrize(("network", "layer", "reader"), HARD)
def test_one_node_without_a_mapping_leaves_the_others(network, layer, reader):
    graph = graph_of(network(), (3, 32, 32))
    assert graph.layers[reader] in {item.dep.target.module for item in graph.group(layer).items}


class Silent(nn.Module):
    def forward(self, x):
        raise TypeError("no such operation\nsecond line")


def test_a_network_that_it_cannot_trace_is_a_failed_run():
    with pytest.raises(RunFailed, match=r"torch-pruning cannot trace .*TypeError: no such operation\)$"):
        graph_of(Silent(), SHAPE)
