"""Tiny networks, one for each way in which units can be produced, passed on and read; images; partners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.loading import Raw, dataset
from bench.models.build import Shape, architecture
from bench.models.layers import ChannelPad
from bench.pruning.sites import Site
from bench.training.context import Context
from bench.training.method import Method
from bench.training.plan import PRUNE, Phase, Plan
from bench.training.registration import importance, method, regularizer

SHAPE: Shape = (3, 8, 8)
CLASSES = 4
SIZES = (80, 24)
STANDARD, BLOCKS, NEURONS = "check_chain", "check_depth", "check_neurons"
"""What every method works on, but for those that work on blocks alone or on linear layers alone."""
NETWORKS = (
    STANDARD,
    "check_residual",
    "check_depthwise",
    "check_concatenation",
    "check_flatten",
    "check_mlp",
    "check_narrow",
)
"""Each is a site with batch norm, a pad shortcut, a depthwise layer, a concatenation, none of a norm, linear units,
and a single unit."""


@dataset("check_images", shape=SHAPE, classes=CLASSES, sizes=SIZES)
def check_images(part: str, folder: Path, download: bool) -> Raw:
    """A pattern for each class under noise: for checking methods, not for results."""
    size = SIZES[part == "test"]
    patterns = np.random.default_rng(0).integers(40, 216, (CLASSES, *SHAPE[1:], SHAPE[0]))
    labels = np.arange(size) % CLASSES
    noise = np.random.default_rng(size).integers(-40, 41, (size, *SHAPE[1:], SHAPE[0]))
    return (patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels


def conv(inp: int, out: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Convolution that keeps height and width (at stride 1)."""
    return nn.Conv2d(inp, out, size, stride, size // 2, groups=groups, bias=bias)


def head(channels: int, classes: int = CLASSES) -> tuple[nn.Module, ...]:
    """Global average pooling and one linear layer."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)


def conv_bn(inp: int, out: int, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    """Convolution without bias, batch norm, ReLU."""
    return conv(inp, out, size, stride, bias=False), nn.BatchNorm2d(out), nn.ReLU()


@architecture("check_chain")
def chain(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """Convolutions with batch norm, one after the other: every budget can be met, and nothing takes long."""
    layers = *conv_bn(shape[0], 12, stride=2), *conv_bn(12, 16, stride=2), *conv_bn(16, 12, stride=2)
    area = (shape[1] // 8) * (shape[2] // 8)  # one position at 8x8, so that no pooling has to be counted
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * area, num_classes))


@architecture("check_narrow")
def narrow(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """A site of a single unit between two others."""
    layers = *conv_bn(shape[0], 8), *conv_bn(8, 1, 1), *conv_bn(1, 6)
    return nn.Sequential(*layers, *head(6, num_classes))


@architecture("check_flatten")
def conv_flatten(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """No normalisation; a flattened map gives each unit of site ``3`` several positions."""
    area = (shape[1] // 4) * (shape[2] // 4)
    convs = conv(shape[0], 6), nn.ReLU(), nn.MaxPool2d(2), conv(6, 5), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(5 * area, 7), nn.ReLU(), nn.Linear(7, num_classes))


@architecture("check_mlp")
def mlp(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """Linear layers, one of them read through tanh."""
    layers = nn.Flatten(), nn.Linear(int(np.prod(shape)), 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(7, num_classes))


@architecture("check_neurons")
def neurons(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """Linear layers of which every budget can be met."""
    layers = nn.Flatten(), nn.Linear(int(np.prod(shape)), 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(20, num_classes))


class Residual(nn.Module):
    """ReLU of a body and a shortcut."""

    def __init__(self, body: tuple[nn.Module, ...], shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.relu = nn.Sequential(*body), shortcut, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, out, H', W']``."""
        return self.relu(self.body(x) + self.shortcut(x))


def basic_block(inp: int, out: int, stride: int, shortcut: nn.Module) -> Residual:
    """Two 3x3 convolutions with batch norm, parallel to a shortcut."""
    first = conv(inp, out, stride=stride, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    return Residual((*first, conv(out, out, bias=False), nn.BatchNorm2d(out)), shortcut)


def doubling_block(option: str) -> Residual:
    """From 4 to 8 channels at half the size; its shortcut is padded (A) or a convolution (B)."""
    projection = nn.Sequential(conv(4, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
    return basic_block(4, 8, 2, ChannelPad(4, 8, 2) if option == "A" else projection)


@architecture("check_residual", option="A")
def residual(option: str, *, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """A stem, a block that keeps the width and one that doubles it, its shortcut padded (A) or a convolution (B)."""
    return nn.Sequential(
        nn.Sequential(*conv_bn(shape[0], 4)),
        basic_block(4, 4, 1, nn.Identity()),
        doubling_block(option),
        *head(8, num_classes),
    )


@architecture("check_depth", option="A")
def depth(option: str, *, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """A stem, three blocks that keep the width, one that doubles it (see ``check_residual``), two that keep it."""
    return nn.Sequential(
        nn.Sequential(*conv_bn(shape[0], 4)),
        *(basic_block(4, 4, 1, nn.Identity()) for _ in range(3)),
        doubling_block(option),
        *(basic_block(8, 8, 1, nn.Identity()) for _ in range(2)),
        *head(8, num_classes),
    )


@architecture("check_depthwise")
def depthwise(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """A depthwise convolution passes on the units of the layer before it."""
    return nn.Sequential(
        *(conv(shape[0], 6), nn.BatchNorm2d(6), nn.ReLU()),
        *(conv(6, 6, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(conv(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *head(8, num_classes),
    )


class DenseLayer(nn.Module):
    """Normalises all that came before and adds ``growth`` channels to it."""

    def __init__(self, inp: int, growth: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inp), conv(inp, growth, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inp, H, W] -> [B, inp + growth, H, W]``."""
        return torch.cat([x, self.conv(torch.relu(self.bn(x)))], dim=1)


@architecture("check_concatenation")
def densely_connected(*, shape: Shape = SHAPE, num_classes: int = CLASSES) -> nn.Module:
    """Layers that read the concatenation of all before them."""
    layers = conv(shape[0], 4), DenseLayer(4, 3), DenseLayer(7, 5), nn.BatchNorm2d(12), nn.ReLU()
    return nn.Sequential(*layers, *head(12, num_classes))


# --- what methods are composed with: the least regularizer and the least importance ---------------------------------


@importance("check_importance", kinds=("conv", "linear", "block"))
def check_importance(site: Site) -> Tensor:
    """l1 norm, for checking compositions."""
    return site.rows().abs().sum(dim=1)


@method("check_cuts")
class CheckCuts(Method):
    """Cuts a unit of each site before each of two phases, for checking what acts after the prune."""

    starts_from = "base"

    def plan(self, ctx: Context) -> Plan:
        """Two phases before the prune."""
        return (Phase(1, "finetune"), Phase(1, "finetune"), PRUNE, Phase(2, "finetune"))

    def on_phase_start(self, ctx: Context) -> None:
        """The first unit of each site that has more than 4."""
        ctx.shrink({name: torch.arange(width) >= int(width > 4) for name, width in ctx.sites.widths.items()})


@regularizer("check_penalty", kinds=("conv", "linear", "block"))
def check_penalty(site: Site) -> Tensor:
    """Squared weights, for checking compositions."""
    return 1e-4 * site.rows().square().sum()
