"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, table 1): norms before convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.build import Shape, architecture


class Block(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; where the width changes, a 1x1 convolution of the activated input."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(inp), nn.BatchNorm2d(out), nn.ReLU()
        self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inp, out, 1, stride, bias=False) if inp != out else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, out, H / stride, W / stride]``."""
        active = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """6n + 4 layers: a stem of 16 channels, three stages of n blocks of 16, 32 and 64 times ``widen`` channels."""

    def __init__(self, depth: int, widen: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        blocks, width = [], 16
        for stage, out in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range((depth - 4) // 6):
                blocks.append(Block(width, out, 2 if stage and not block else 1))
                width = out
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*blocks)
        self.bn, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``."""
        x = self.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(self.pool(x).flatten(1))


@architecture("wrn28_10", depth=28, widen=10)
@architecture("wrn16_4", depth=16, widen=4)
def wide_resnet(depth: int, widen: int, *, shape: Shape, num_classes: int) -> WideResNet:
    """Wide residual network for small images; depth and widening factor are in the name, no dropout."""
    return WideResNet(depth, widen, shape[0], num_classes)
