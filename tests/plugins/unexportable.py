"""A network that trains and slices, and for which ONNX has no operator."""

import torch
from torch import nn

from bench.models.build import architecture


class Bessel(nn.Sequential):
    """Sees the images through a Bessel function."""

    def forward(self, x):
        return super().forward(torch.special.i0e(x))


@architecture("bessel")
def bessel(shape, num_classes):
    """Two convolutions behind a Bessel function."""
    convs = nn.Conv2d(shape[0], 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()
    return Bessel(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))
