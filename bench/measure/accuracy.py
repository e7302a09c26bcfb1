"""Accuracy of a network: top-1, top-5, loss, calibration, worst class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.torch_state import evaluating

BINS = 15


EVALUATION_BATCH = 1000


class Batched(Protocol):
    """Protocol of evaluated images: normalised, in batches; see :class:`bench.data.loading.ImageSet`."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``[B, C, H, W]`` and labels ``[B]``, in order."""
        ...


@torch.inference_mode()
def logits_of(network: nn.Module, images: Batched, batch: int = EVALUATION_BATCH) -> Tensor:
    """Outputs ``[N, classes]`` of ``network`` in eval mode and float32 on ``images``, on the CPU."""
    with evaluating(network):
        return torch.cat([network(x).float().cpu() for x, _ in images.batches(batch)])


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images get their label, bool ``[N]``."""
    return logits.double().cpu().softmax(dim=1).max(dim=1).indices == labels.cpu()


def quality(logits: Tensor, labels: Tensor) -> dict[str, float | int]:
    """Metrics of ``logits [N, classes]`` against integer ``labels [N]``.

    ``top1``, ``top5`` and ``worst_class_top1`` are shares in 0..1; ``loss`` is the cross-entropy in nats, with
    the digits that its float32 needs; ``ece`` the expected calibration error over 15 equal bins of confidence (Guo et
    al. 2017, eq. 5).
    """
    logits, labels = logits.double().cpu(), labels.cpu().long()
    probability = logits.softmax(dim=1)
    confidence = probability.max(dim=1).values
    hit = correct(logits, labels).double()
    k = min(5, logits.shape[1])
    in_top5 = (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = torch.zeros(BINS, dtype=torch.double).index_add(0, bins, hit - confidence)
    per_class = torch.zeros(logits.shape[1], dtype=torch.double).index_add(0, labels, hit)
    counts = labels.bincount(minlength=logits.shape[1])
    seen = counts > 0
    shares = torch.where(seen, per_class / counts.clamp(min=1), torch.inf)
    return {
        "examples": len(labels),
        "top1": hit.mean().item(),
        "top5": in_top5.double().mean().item(),
        "loss": float(str(np.float32(F.cross_entropy(logits, labels).item()))),
        "ece": (gap.abs().sum() / len(labels)).item(),
        "worst_class": int(shares.argmin()),
        "worst_class_top1": shares.min().item(),
    }
