"""Tiny networks, one for each way in which units can be produced, passed on and read."""

from functools import cache

import torch
from hypothesis import strategies as st
from support.joined_networks import JOINED
from torch import nn

from bench.conformance.tiny_networks import (
    SHAPE,
    Residual,
    conv,
    conv_flatten,
    densely_connected,
    depthwise,
    head,
    mlp,
    residual,
)
from bench.models.layers import Attention
from bench.models.torch_state import NORMS
from bench.pruning.site_discovery import find_sites
from bench.training.ledger import Ledger


def with_activation(activation):
    """Site ``0`` is read through ``activation``; site ``3`` is plain."""
    layers = conv(3, 6, bias=False), nn.BatchNorm2d(6), activation, conv(6, 5), nn.BatchNorm2d(5), nn.ReLU()
    return nn.Sequential(*layers, *head(5))


def conv_bn():
    return with_activation(nn.ReLU())


def bottleneck():
    body = (
        *(conv(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        *(conv(4, 5), nn.BatchNorm2d(5), nn.ReLU()),
        *(conv(5, 6, 1), nn.BatchNorm2d(6)),
    )
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), Residual(body, nn.Identity()), *head(6))


GREY = (1, 8, 8)


def three_sites():
    """Sites ``0``, ``4`` and ``7`` of 12, 16 and 12 units with batch norm, the first pooled; ten classes, ``GREY``."""
    first, second, third = (
        (conv(i, o, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((1, 12), (12, 16), (16, 12))
    )
    return nn.Sequential(*first, nn.MaxPool2d(2), *second, *third, *head(12, 10))


def two_sites():
    """Sites ``0`` and ``4`` of 6 and 7 units, no norm, the first pooled and flattened; ten classes, ``GREY``."""
    return nn.Sequential(
        *(conv(1, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(96, 7), nn.ReLU(), nn.Linear(7, 10)),
    )


class Doubled(nn.Module):
    """The next layer reads every unit at two places that are far apart."""

    def forward(self, x):
        return torch.cat([x, x.neg().relu()], dim=1)


def doubled():
    return nn.Sequential(conv(3, 5), Doubled(), nn.BatchNorm2d(10), conv(10, 4), nn.ReLU(), *head(4))


class Parallel(nn.Module):
    """Two sites of ten units, each of which costs 12 MACs whatever else is kept; nothing else costs anything."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)) for _ in range(2))

    def forward(self, x):
        return self.left(x) + self.right(x)


def four_groups(inp=3):
    """Four groups pass on the units of the convolution before them, each two channels in and three out."""
    first = conv(inp, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    return *first, conv(8, 12, groups=4, bias=False), nn.BatchNorm2d(12), nn.ReLU()


def grouped():
    return nn.Sequential(*four_groups(), conv(12, 5), nn.ReLU(), *head(5))


def grouped_twice():
    """Six groups, then three that read two of them each, beside a shortcut: three units of four channels."""
    twice = conv(12, 12, groups=6), nn.ReLU(), conv(12, 12, groups=3)
    return nn.Sequential(conv(3, 12), nn.ReLU(), Residual(twice, nn.Identity()), conv(12, 5), nn.ReLU(), *head(5))


def multiplied():
    """A depthwise convolution that makes two channels of each."""
    return nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, groups=4), nn.BatchNorm2d(8), nn.ReLU(), *head(8))


class Excitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): channels times what two layers make of their means."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.pool, self.relu, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.LeakyReLU(), nn.Sigmoid()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))


def excited():
    first = conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), Excitation(6, 3)
    return nn.Sequential(*first, conv(6, 5), nn.BatchNorm2d(5), nn.ReLU(), *head(5))


def excited_stream():
    """The excitation scales a summand of the residual stream."""
    body = conv(6, 4), nn.ReLU(), conv(4, 6), Excitation(6, 3)
    return nn.Sequential(conv(3, 6), nn.ReLU(), Residual(body, nn.Identity()), *head(6))


class Encoder(nn.Module):
    """A transformer's block over the 2x2 patches of an image: three heads of four channels, seven hidden units."""

    def __init__(self, inp=3, side=4, classes=4, attention=None):
        super().__init__()
        self.patches = nn.Conv2d(inp, 12, side, side)
        self.norm1, self.attention = nn.LayerNorm(12), attention or Attention(12, 3)
        self.norm2, self.mlp = nn.LayerNorm(12), nn.Sequential(nn.Linear(12, 7), nn.GELU(), nn.Linear(7, 12))
        self.fc = nn.Linear(12, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.fc((x + self.mlp(self.norm2(x))).mean(dim=1))


def all_kinds(inp=1, classes=10):
    """Units that are groups with an excitation, hidden units of it, hidden units of an encoder, heads."""
    return nn.Sequential(*four_groups(inp), Excitation(12, 3), Encoder(12, classes=classes))


CASES = {
    "conv_bn": (conv_bn, "inner"),
    "conv_flatten": (conv_flatten, "inner"),
    "mlp": (mlp, "inner"),
    "residual_A_inner": (lambda: residual("A"), "inner"),
    "residual_A_full": (lambda: residual("A"), "full"),
    "residual_B_inner": (lambda: residual("B"), "inner"),
    "residual_B_full": (lambda: residual("B"), "full"),
    "bottleneck_inner": (bottleneck, "inner"),
    "bottleneck_full": (bottleneck, "full"),
    "depthwise": (depthwise, "inner"),
    "densely_connected": (densely_connected, "inner"),
    "doubled": (doubled, "inner"),
    "sigmoid": (lambda: with_activation(nn.Sigmoid()), "inner"),
    "prelu_per_channel": (lambda: with_activation(nn.PReLU(6)), "inner"),
    "prelu_shared": (lambda: with_activation(nn.PReLU()), "inner"),
    "grouped": (grouped, "inner"),
    "grouped_twice": (grouped_twice, "inner"),
    "multiplied": (multiplied, "inner"),
    "excited": (excited, "inner"),
    "excited_stream": (excited_stream, "full"),
    "encoder": (Encoder, "inner"),
    **JOINED,
}


def randomised(network, seed=0):
    """``network`` with norms and biases as training would leave them: nothing that a removed unit adds is zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, NORMS):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.uniform_(-0.5, 0.5)
                module.bias += 0.5  # so that few units are dead
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.5, 0.5)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    module.bias.uniform_(0, 1)
    return network.eval()


def made(case):
    """A fresh network of ``case`` in eval mode, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return randomised(CASES[case][0]())


@cache
def found(case):
    """Network and sites of ``case``, made once: leave them as they are."""
    network = made(case)
    return network, find_sites(network, SHAPE, CASES[case][1])


def images(batch=2, shape=SHAPE, seed=0):
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def masks_for(sites, proper=False):
    """Strategy for masks of ``sites`` that keep at least one unit each (``proper``: and remove one)."""

    def mask(width):
        bits = st.lists(st.booleans(), min_size=width, max_size=width).filter(any)
        return (bits.filter(lambda b: not all(b)) if proper else bits).map(torch.tensor)

    return st.fixed_dictionaries({name: mask(width) for name, width in sites.widths.items()})


def half_masks(sites, seed=0):
    """Masks that keep a random half of each site."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, width in sites.widths.items():
        masks[name] = torch.zeros(width, dtype=torch.bool)
        masks[name][torch.randperm(width, generator=generator)[: (width + 1) // 2]] = True
    return masks


def hooks_of(network):
    """Modules with a hook that is not the ledger's."""
    return [m for m in network.modules() if any(not is_ledgers(h) for hooks in all_hooks(m) for h in hooks.values())]


def all_hooks(module):
    return module._forward_pre_hooks, module._forward_hooks, module._backward_hooks


def is_ledgers(hook):
    return isinstance(getattr(hook, "__self__", None), Ledger)


def in_forwards(ctx):
    """What a method's forwards cost so far, in forwards of one example without gradient."""
    ledger = ctx._model.ledger
    return ledger.forward + 3 * ledger.backward


class Pair(nn.Module):
    """Gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.body = three_sites()

    def forward(self, x):
        logits = self.body(x)
        return {"out": logits, "twice": 2 * logits}
