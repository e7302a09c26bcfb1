"""The networks of DropNet's experiments (Tan & Motani, ICML 2020), from the paper and its notebooks.

Weights are drawn as Keras draws them by default: Glorot uniform, zero biases. Every activation is a module, so that
methods can watch it. What the authors never drop is left whole here too: the linear layer of 256 units in model C
and in the VGG-19-like network.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.build import Shape, architecture
from bench.models.lenet_mlp import mlp


class Keras(nn.Module):
    """A network that draws its own weights; see :func:`bench.models.build.initialize`."""

    def draw_weights(self) -> None:
        """Glorot uniform weights and zero biases, from the global RNG (Glorot & Bengio 2010, eq. 16)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Perceptron(nn.Sequential, Keras):
    """Modules in a row."""


class ConvNet(Keras):
    """Groups of 3x3 convolutions with ReLU, each followed by 2x2 max pooling; then one or two linear layers.

    With ``norm`` the last convolution of each group has batch norm, behind the ReLU as in the notebooks, with
    Keras's constants.
    """

    def __init__(
        self,
        groups: tuple[tuple[int, ...], ...],
        shape: Shape,
        num_classes: int,
        hidden: int | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width, *sides = shape
        for group in groups:
            for out in group:
                layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
                width = out
            layers += [nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)] if norm else []
            layers.append(nn.MaxPool2d(2))
            sides = [side // 2 for side in sides]
        self.features = nn.Sequential(*layers)
        size = width * sides[0] * sides[1]
        self.hidden: nn.Module = nn.Sequential(nn.Linear(size, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.fc = nn.Linear(hidden or size, num_classes)
        self.whole = ("hidden.0",)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``, H and W at least 2 to the number of groups."""
        return self.fc(self.hidden(self.features(x).flatten(1)))


class Block(nn.Module):
    """Two 3x3 convolutions with ReLU, added to the input, or to a third one with ReLU where the width changes."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(inp, out, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(out, out, 3, padding=1), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inp != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inp, out, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, out, H, W]``."""
        return self.relu2(self.conv2(self.relu1(self.conv1(x)))) + self.shortcut(x)


class ResNet18(Keras):
    """A stem, four stages of two blocks with 64, 128, 256 and 512 channels, max pooling before each, no batch norm."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        width = 64
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        for out in (64, 128, 256, 512):
            layers += [nn.MaxPool2d(2), Block(width, out), Block(out, out)]
            width = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> logits [B, num_classes]``, H and W at least 16."""
        return self.fc(self.pool(self.features(x)).flatten(1))


@architecture("dropnet_a_40_40", hidden=(40, 40))
@architecture("dropnet_a_20_40", hidden=(20, 40))
@architecture("dropnet_a_40_20", hidden=(40, 20))
@architecture("dropnet_a_20_20", hidden=(20, 20))
def model_a(hidden: tuple[int, ...], *, shape: Shape, num_classes: int) -> Perceptron:
    """DropNet's model A: multi-layer perceptron; the hidden widths are in the name."""
    return Perceptron(*mlp(hidden, shape=shape, num_classes=num_classes))


@architecture("dropnet_b_64_64", min_size=4, widths=(64, 64))
@architecture("dropnet_b_32_64", min_size=4, widths=(32, 64))
@architecture("dropnet_b_64_32", min_size=4, widths=(64, 32))
@architecture("dropnet_b_20_20", min_size=4, widths=(20, 20))
def model_b(widths: tuple[int, ...], *, shape: Shape, num_classes: int) -> ConvNet:
    """DropNet's model B: two convolutions, each pooled, one linear layer."""
    return ConvNet(tuple((width,) for width in widths), shape, num_classes)


@architecture("dropnet_c_64_64_128_128", min_size=16, widths=(64, 64, 128, 128))
@architecture("dropnet_c_128_128_128_128", min_size=16, widths=(128, 128, 128, 128))
@architecture("dropnet_c_128_128_64_64", min_size=16, widths=(128, 128, 64, 64))
@architecture("dropnet_c_128_128_256_256", min_size=16, widths=(128, 128, 256, 256))
def model_c(widths: tuple[int, ...], *, shape: Shape, num_classes: int) -> ConvNet:
    """DropNet's model C: four convolutions, each pooled, a linear layer of 256 that stays whole, another one."""
    return ConvNet(tuple((width,) for width in widths), shape, num_classes, hidden=256)


@architecture("dropnet_vgg19", min_size=32)
def vgg19(*, shape: Shape, num_classes: int) -> ConvNet:
    """DropNet's VGG-19-like network: batch norm behind the ReLU at the end of each group; 256 linear units stay whole.

    The paper's drawing has one group of 512 channels, the notebooks have two; this follows the notebooks.
    """
    groups = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
    return ConvNet(groups, shape, num_classes, hidden=256, norm=True)


@architecture("dropnet_resnet18", min_size=16)
def resnet18(*, shape: Shape, num_classes: int) -> ResNet18:
    """DropNet's ResNet-18-like network without batch norm.

    The paper masks all 4,800 filters, both summands of an addition separately. A filter is physically gone only when
    nothing reads it, so of these the 1,920 inside the blocks are sites; the 2,880 that are added up to the residual
    streams leave in the 64 + 128 + 256 + 512 units of ``--coupling full``, all summands together.
    """
    return ResNet18(shape[0], num_classes)
