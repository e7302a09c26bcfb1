"""Torch-pruning's dependency graph, which its importances need."""

import pytest
from support.networks import SHAPE
from torch import nn
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import SwinTransformer

from bench.errors import RunFailed
from bench.pruning.dependency_graph import graph_of


def shuffling():
    """Three blocks deep, torch-pruning divides by zero where a channel shuffle begins."""
    return ShuffleNetV2([3, 1, 1], [8, 16, 32, 32, 32], num_classes=4)


def merging():
    """Behind eight blocks torch-pruning adds None to a number where patches are merged."""
    return SwinTransformer([4, 4], 8, [1, 8, 1], [2, 2, 2], [2, 2], num_classes=4)


@pytest.mark.parametrize(
    ("network", "layer", "reader"),
    [
        (shuffling, "stage2.1.branch2.0", "stage2.1.branch2.5"),
        (merging, "features.3.5.mlp.0", "features.3.5.mlp.3"),
    ],
)
def test_one_node_without_a_mapping_leaves_the_others(network, layer, reader):
    graph = graph_of(network(), (3, 32, 32))
    assert graph.layers[reader] in {item.dep.target.module for item in graph.group(layer).items}


class Silent(nn.Module):
    def forward(self, x):
        raise TypeError("no such operation\nsecond line")


def test_a_network_that_it_cannot_trace_is_a_failed_run():
    with pytest.raises(RunFailed, match=r"torch-pruning cannot trace .*TypeError: no such operation\)$"):
        graph_of(Silent(), SHAPE)
