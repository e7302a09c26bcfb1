"""VGG networks with batch normalisation for 32x32 images (Simonyan & Zisserman 2015; one linear layer on top)."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.build import Shape, architecture


class VGG(nn.Module):
    """Five groups of 3x3 convolutions, each followed by 2x2 max pooling, then global average pooling."""

    def __init__(self, groups: tuple[int, ...], in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for out, convs in zip((64, 128, 256, 512, 512), groups, strict=True):
            for _ in range(convs):
                layers += [
                    nn.Conv2d(width, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                width = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``, H and W at least 32."""
        return self.fc(self.pool(self.features(x)).flatten(1))


@architecture("vgg16_bn", min_size=32, groups=(2, 2, 3, 3, 3))
@architecture("vgg19_bn", min_size=32, groups=(2, 2, 4, 4, 4))
def vgg(groups: tuple[int, ...], *, shape: Shape, num_classes: int) -> VGG:
    """VGG with batch normalisation for images of 32x32 pixels and more."""
    return VGG(groups, shape[0], num_classes)
