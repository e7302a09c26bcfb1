"""Plain networks without normalisation: LeNet and multi-layer perceptrons."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from bench.models.build import Shape, architecture


class LeNet(nn.Module):
    """Caffe's LeNet, widths 20-50-500 (431,080 parameters on 28x28 grey images)."""

    def __init__(self, shape: Shape, num_classes: int) -> None:
        super().__init__()
        height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
        self.conv1 = nn.Conv2d(shape[0], 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()
        self.fc1 = nn.Linear(50 * height * width, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``, H and W at least 16."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


@architecture("lenet", min_size=16)
def lenet(*, shape: Shape, num_classes: int) -> LeNet:
    """LeNet 20-50-500, two convolutions and two linear layers, no normalisation."""
    return LeNet(shape, num_classes)


@architecture("mlp_300_100", hidden=(300, 100))
@architecture("mlp_40_40", hidden=(40, 40))
def mlp(hidden: tuple[int, ...], *, shape: Shape, num_classes: int) -> nn.Sequential:
    """Multi-layer perceptron with ReLU; the hidden widths are in the name."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inp, out in pairwise((math.prod(shape), *hidden)):
        layers += [nn.Linear(inp, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], num_classes))
