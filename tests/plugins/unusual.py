"""Networks that are written as published ones sometimes are, each unusual in one way. All take grey images."""

import warnings

import torch
from torch import nn
from torch.nn import functional as F

from bench.models.build import architecture


def conv(inp, out):
    return nn.Sequential(nn.Conv2d(inp, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Chain(nn.Module):
    """Two convolutions, sites ``first.0`` and ``second.0``, and a linear layer."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.first, self.second = conv(shape[0], 6), conv(6, 5)
        self.fc = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class ByView(Chain):
    """Flattens a map by ``view``, which channels-last memory does not allow."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.fc = nn.Linear(5 * (shape[1] // 2) * (shape[2] // 2), num_classes)

    def forward(self, x):
        x = F.max_pool2d(self.second(self.first(x)), 2)
        return self.fc(x.view(x.size(0), -1))


class Volumes(nn.Module):
    """Convolutions of one, two and three dimensions; kernels of five dimensions as a bare parameter."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(2, shape[0], shape[0], 3, 3) / 3)
        self.register_buffer("window", torch.ones(1, 1, 1, 1, 1))
        self.deep, self.norm = nn.Conv3d(shape[0], 6, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(6)
        self.plane, self.line = nn.Conv2d(6, 5, 3, padding=1), nn.Conv1d(5, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        x = x + sum(F.conv2d(x, kernel, padding=1) for kernel in self.kernels)
        x = self.norm(self.deep(x.unsqueeze(2) * self.window)).relu().squeeze(2)
        return self.fc(self.line(self.plane(x).relu().flatten(2)).relu().mean(2))


class TwoNames(Chain):
    """Has one block under two names, and calls it by the second."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.features = self.first

    def forward(self, x):
        return self.fc(self.second(self.features(x)).mean((2, 3)))


class Tied(Chain):
    """Two of four convolutions share a weight."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.third, self.fourth = conv(5, 5), conv(5, 5)
        self.fourth[0].weight = self.third[0].weight

    def forward(self, x):
        x = self.fourth(self.third(self.second(self.first(x))))
        return self.fc(x.mean((2, 3)))


class WeightNormed(Chain):
    """One of three convolutions has the older of torch's weight norms."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.third = nn.utils.weight_norm(nn.Conv2d(5, 5, 3, padding=1))

    def forward(self, x):
        return self.fc(self.third(self.second(self.first(x))).relu().mean((2, 3)))


class Helped(Chain):
    """Adds logits of its first block while training."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.helper = nn.Linear(6, num_classes)

    def forward(self, x):
        x = self.first(x)
        logits = self.fc(self.second(x).mean((2, 3)))
        return logits + 0.3 * self.helper(x.mean((2, 3))) if self.training else logits


class RandomDepth(Chain):
    """Leaves out blocks at random while training, for whole batches."""

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.blocks = nn.ModuleList(nn.Sequential(conv(5, 4), conv(4, 5)) for _ in range(3))

    def forward(self, x):
        x = self.second(self.first(x))
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.5:
                x = x + block(x)
        return self.fc(x.mean((2, 3)))


class SeveralOutputs(Helped):
    """Returns two logits while training."""

    def forward(self, x):
        x = self.first(x)
        logits = self.fc(self.second(x).mean((2, 3)))
        return (logits, self.helper(x.mean((2, 3)))) if self.training else logits


class EarlyExit(Helped):
    """Ends after its first block where the images are bright."""

    def forward(self, x):
        bright, x = x.mean() > 0.2, self.first(x)
        return self.helper(x.mean((2, 3))) if bright else self.fc(self.second(x).mean((2, 3)))


class BreaksLate(Chain):
    """Fails once it was called so often: no test before a run can know."""

    most = 1000

    def __init__(self, shape, num_classes):
        super().__init__(shape, num_classes)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > self.most:
            raise RuntimeError("the network gives up")
        return super().forward(x)


@architecture("by_view")
def by_view(shape, num_classes):
    """Flattens a map by ``view``, which channels-last memory does not allow."""
    return ByView(shape, num_classes)


@architecture("volumes")
def volumes(shape, num_classes):
    """Convolutions of one, two and three dimensions; kernels of five dimensions as a bare parameter."""
    return Volumes(shape, num_classes)


@architecture("two_names")
def two_names(shape, num_classes):
    """Has one block under two names, and calls it by the second."""
    return TwoNames(shape, num_classes)


@architecture("tied")
def tied(shape, num_classes):
    """Two of four convolutions share a weight."""
    return Tied(shape, num_classes)


@architecture("weight_normed")
def weight_normed(shape, num_classes):
    """One of three convolutions has the older of torch's weight norms."""
    return WeightNormed(shape, num_classes)


@architecture("helped")
def helped(shape, num_classes):
    """Adds logits of its first block while training."""
    return Helped(shape, num_classes)


@architecture("random_depth")
def random_depth(shape, num_classes):
    """Leaves out blocks at random while training, for whole batches."""
    return RandomDepth(shape, num_classes)


@architecture("several_outputs")
def several_outputs(shape, num_classes):
    """Returns two logits while training."""
    return SeveralOutputs(shape, num_classes)


@architecture("early_exit")
def early_exit(shape, num_classes):
    """Ends after its first block where the images are bright."""
    return EarlyExit(shape, num_classes)


@architecture("breaks_late")
def breaks_late(shape, num_classes):
    """Fails in its training once its weights have moved, which no test before can know."""
    return BreaksLate(shape, num_classes)
