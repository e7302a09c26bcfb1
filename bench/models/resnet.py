"""Residual networks for small images (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.build import Shape, architecture
from bench.models.layers import ChannelPad


def conv3x3(inp: int, out: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution with padding 1 and no bias."""
    return nn.Conv2d(inp, out, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the block-internal width is what can be pruned freely."""

    def __init__(self, inp: int, out: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inp, out, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = conv3x3(out, out), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if inp != out and shortcut == "A":
            self.shortcut = ChannelPad(inp, out, stride)
        elif inp != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inp, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, out, H / stride, W / stride]``."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """6n + 2 layers: a stem, three stages of n blocks, global average pooling and one linear layer."""

    def __init__(self, depth: int, shortcut: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = conv3x3(in_channels, 16), nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        width = 16
        stages = []
        for stage, out in enumerate((16, 32, 64)):
            for block in range(blocks):
                stages.append(BasicBlock(width, out, 2 if stage and not block else 1, shortcut))
                width = out
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``."""
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.pool(x).flatten(1))


@architecture("resnet20", depth=20)
@architecture("resnet32", depth=32)
@architecture("resnet44", depth=44)
@architecture("resnet56", depth=56)
@architecture("resnet110", depth=110)
@architecture("resnet20b", depth=20, shortcut="B")
@architecture("resnet32b", depth=32, shortcut="B")
@architecture("resnet44b", depth=44, shortcut="B")
@architecture("resnet56b", depth=56, shortcut="B")
@architecture("resnet110b", depth=110, shortcut="B")
def resnet(depth: int, shortcut: str = "A", *, shape: Shape, num_classes: int) -> ResNet:
    """Residual network for small images; shortcuts A (zero padding) or, names ending in b, B (1x1 convolution)."""
    return ResNet(depth, shortcut, shape[0], num_classes)
