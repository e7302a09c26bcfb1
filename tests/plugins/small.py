"""A data set and networks small enough for tests."""

import numpy as np
from torch import nn

from bench.data.loading import dataset
from bench.models.build import architecture


@dataset("tiny", shape=(3, 32, 32), classes=10, sizes=(160, 40))
def tiny(part, folder, download):
    """Ten noisy patterns, 32x32."""
    return _noisy((32, 32, 3), 160 if part == "train" else 40)


def _noisy(shape, size):
    patterns = np.random.default_rng(0).integers(40, 216, (10, *shape))
    labels = np.arange(size) % 10
    noise = np.random.default_rng(size).integers(-40, 41, (size, *shape))
    return (patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels


@dataset("tiny8", shape=(1, 8, 8), classes=10, sizes=(200, 40))
def tiny8(part, folder, download):
    """Ten noisy patterns, 8x8 grey."""
    return _noisy((8, 8), 200 if part == "train" else 40)


@architecture("two_layers")
def two_layers(shape, num_classes):
    """A convolution with batch norm, pooling, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )


class Untraceable(nn.Module):
    """Its forward wants more than an image."""

    def __init__(self, shape, num_classes):
        super().__init__()
        self.fc = nn.Linear(int(np.prod(shape)), num_classes)

    def forward(self, x, mask):
        return self.fc(x.flatten(1)) * mask


@architecture("untraceable")
def untraceable(shape, num_classes):
    """A network that cannot be traced."""
    return Untraceable(shape, num_classes)
