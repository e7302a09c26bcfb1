"""Small networks with residual blocks, one for each way in which branches are added, normalised and activated."""

from collections.abc import Callable
from functools import cache, partial

import torch
from support.networks import Encoder, Excitation, randomised
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from bench.conformance.tiny_networks import SHAPE, Residual, conv, conv_bn, depth, head
from bench.pruning.site_discovery import find_sites


class Added(nn.Module):
    """``after(x + end(branches(x)))``."""

    def __init__(self, *branch, end=None, after=None):
        super().__init__()
        self.branch, self.end, self.after = nn.Sequential(*branch), end or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(x + self.end(self.branch(x)))


class InPlace(nn.Module):
    """As torchvision writes it: sums and activations in place, one activation for all."""

    def __init__(self, channels, inner, activation):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, inner), nn.BatchNorm2d(inner)
        self.conv2, self.bn2, self.act = conv(inner, channels), nn.BatchNorm2d(channels), activation

    def forward(self, x):
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out += x
        return self.act(out)


class Functional(nn.Module):
    """No module but the convolutions and norms."""

    def __init__(self, channels, inner):
        super().__init__()
        self.conv1, self.conv2, self.bn = conv(channels, inner), conv(inner, channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(torch.add(F.dropout(x, 0.1, self.training), self.bn(self.conv2(F.relu(self.conv1(x))))))


class Scaled(nn.Module):
    """ConvNeXt: a parameter scales the branch, whole branches drop out; the stream is not normalised."""

    def __init__(self, channels, inner):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.3))
        self.inner = nn.Sequential(conv(channels, inner), nn.GELU(), conv(inner, channels))
        self.drop = StochasticDepth(0.2, "row")

    def forward(self, x):
        result = self.drop(self.scale * self.inner(x))
        result += x
        return result


class Layer(nn.Module):
    """One layer of an encoder: two branches, dropout at the end of both."""

    def __init__(self):
        super().__init__()
        inner = Encoder()
        self.norm1, self.attention, self.norm2, self.mlp = inner.norm1, inner.attention, inner.norm2, inner.mlp
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.drop(self.attention(y, y, y)[0])
        return x + self.drop(self.mlp(self.norm2(x)))


class Layers(nn.Module):
    """A transformer of three layers over the patches of an image."""

    def __init__(self):
        super().__init__()
        self.patches, self.layers, self.fc = nn.Conv2d(3, 12, 4, 4), nn.Sequential(*(Layer() for _ in range(3))), None
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        return self.fc(self.layers(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))


def stem(channels, *activation):
    return conv(3, channels), nn.BatchNorm2d(channels), *activation


def in_place(activation, *first):
    return nn.Sequential(*stem(6, *first), *(InPlace(6, n, activation()) for n in (4, 5)), *head(6))


def inverted():
    """MobileNetV2 and V3: linear streams of two widths, one branch with an excitation."""

    def inner(width, *more):
        return (
            *conv_bn(width, 9, 1),
            conv(9, 9, groups=9),
            nn.BatchNorm2d(9),
            *more,
            conv(9, width, 1),
            nn.BatchNorm2d(width),
        )

    first = (Residual(inner(6), nn.Identity()), Added(*inner(6, Excitation(9, 3))))
    second = (Added(*inner(8)), Added(*inner(8)))
    return nn.Sequential(*stem(6), *(Added(*inner(6)), first[1]), conv(6, 8), *second, *head(8))


def pre_activated():
    """Wide residual networks: norms before convolutions, the sum is not activated."""
    layers = (
        Added(nn.BatchNorm2d(6), nn.ReLU(), conv(6, n), nn.BatchNorm2d(n), nn.ReLU(), conv(n, 6)) for n in (3, 4, 5)
    )
    return nn.Sequential(conv(3, 6), *layers, nn.BatchNorm2d(6), nn.ReLU(), *head(6))


BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "depth_A": (partial(depth, "A"), (3, 2)),
    "depth_B": (partial(depth, "B"), (3, 2)),
    "in_place": (lambda: in_place(lambda: nn.ReLU(inplace=True), nn.ReLU()), (2,)),
    "relu_stays": (lambda: in_place(lambda: nn.ReLU(inplace=True)), (2,)),
    "gelu_stays": (lambda: in_place(nn.GELU, nn.GELU()), (2,)),
    "prelu_stays": (lambda: in_place(nn.PReLU, nn.ReLU6()), (2,)),
    "functional": (lambda: nn.Sequential(*stem(6), Functional(6, 4), Functional(6, 5), *head(6)), (2,)),
    "scaled": (lambda: nn.Sequential(*stem(6), Scaled(6, 7), Scaled(6, 8), *head(6)), (2,)),
    "layers": (Layers, (3,)),
    "inverted": (inverted, (2, 2)),
    "pre_activated": (pre_activated, (3,)),
}
"""Name -> how to make it, and the blocks of each of its sites."""


def block_network(name):
    """A fresh network in eval mode, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return randomised(BLOCKS[name][0]())


@cache
def found_blocks(name, units="both", coupling="inner"):
    """Network and sites, made once: leave them as they are."""
    network = block_network(name)
    return network, find_sites(network, SHAPE, coupling, units)


def random_masks(sites, seed, proper=True):
    """Masks of random units, at least one in each site of channels; any number of blocks."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, site in sites.items():
        masks[name] = torch.rand(site.n_units, generator=generator) < 0.5
        if not site.blocks and not masks[name].any():
            masks[name][int(torch.randint(site.n_units, (), generator=generator))] = True
    return sites.settled(masks)
