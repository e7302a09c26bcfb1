"""DenseNet for small images (Huang et al. 2017, section 4.2): three blocks, each layer reads all before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.build import Shape, architecture


class Layer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution of ``growth`` channels, concatenated with the input."""

    def __init__(self, inp: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(inp), nn.ReLU()
        self.conv = nn.Conv2d(inp, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, inp + growth, H, W]``."""
        return torch.cat([x, self.conv(self.relu(self.norm(x)))], dim=1)


class DenseNet(nn.Module):
    """3n + 4 layers without bottlenecks and compression: a stem of 16 channels, three blocks of n layers."""

    def __init__(self, depth: int, growth: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        width, layers = 16, (depth - 4) // 3
        parts: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        for block in range(3):
            if block:
                parts += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2)]
            for _ in range(layers):
                parts.append(Layer(width, growth))
                width += growth
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``, H and W at least 4."""
        return self.fc(self.pool(self.features(x)).flatten(1))


@architecture("densenet40", depth=40, growth=12, min_size=4)
def densenet(depth: int, growth: int, *, shape: Shape, num_classes: int) -> DenseNet:
    """DenseNet-40, growth rate 12, for small images (1.0 M parameters)."""
    return DenseNet(depth, growth, shape[0], num_classes)
