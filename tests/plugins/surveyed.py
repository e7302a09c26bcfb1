"""Networks that a survey has to get over."""

import os
import time

import torch
from torch import nn

from bench.models.build import architecture


@architecture("prunable")
def prunable(shape, num_classes):
    """Talks on stdout while it is built."""
    print("a network is made")
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)),
    )


@architecture("siteless")
def siteless(shape, num_classes):
    """Has one layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], num_classes))


@architecture("choosy", min_size=65)
def choosy(shape, num_classes):
    """Takes larger images only."""
    return prunable(shape, num_classes)


@architecture("dies")
def dies(shape, num_classes):
    """Ends its process."""
    os._exit(7)


@architecture("leaves")
def leaves(shape, num_classes):
    """Asks to end its process."""
    raise SystemExit(5)


@architecture("hangs")
def hangs(shape, num_classes):
    """Is never done."""
    time.sleep(600)


class Streamed(nn.Module):
    """A block on a residual stream."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(shape[0], 6, 3), nn.Linear(6, num_classes)
        self.block = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))

    def forward(self, x):
        """Stem, block, pooling, classifier."""
        x = self.stem(x)
        return self.fc((x + self.block(x)).relu().mean(dim=(2, 3)))


@architecture("streamed")
def streamed(shape, num_classes):
    """Has a site inside a block, and a stream of 6 units."""
    return Streamed(shape, num_classes)


class Odd(nn.Module):
    """Its output is of another kind than an image's logits."""

    def forward(self, x):
        """A surprise."""
        raise KeyError("odd\nin two lines")


@architecture("raises")
def raises(shape, num_classes):
    """Fails in its forward."""
    return Odd()


class Deaf(nn.Module):
    """Logits that the units have no part in."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.body, self.classes = prunable(shape, num_classes), num_classes

    def forward(self, x):
        """Zero times what the layers make of it."""
        return 0 * self.body(x) + torch.ones(self.classes)


@architecture("deaf")
def deaf(shape, num_classes):
    """Its output depends on no unit."""
    return Deaf(shape, num_classes)
