"""Accuracy and loss on the validation images, of a curve and of a method that asks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from bench.data.image_set import ImageSet
from bench.measure.accuracy import logits_of


@torch.no_grad()
def validation(network: nn.Module, val: ImageSet) -> tuple[float, float]:
    """Top-1 and loss on the validation images, in eval mode and float32, masks included."""
    logits, labels = logits_of(network, val), val.labels.cpu()
    return (logits.argmax(dim=1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()
