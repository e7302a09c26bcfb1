"""The order of a network's and its images' elements in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYOUT = "channels_last"
"""Memory format of all networks that take it."""


LAYOUTS = {LAYOUT: torch.channels_last, "channels_first": torch.contiguous_format}
"""Orders of a map's elements in memory: channels innermost, or as torch makes tensors by default."""


def place(network: nn.Module, device: torch.device, layout: str = LAYOUT) -> nn.Module:
    """``network`` on ``device`` in one of ``LAYOUTS``, in place.

    Only tensors of four dimensions have a layout; ``Module.to`` would fail on those of five.
    """
    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=LAYOUTS[layout])
    return network


def laid_out(images: Tensor, layout: str) -> Tensor:
    """``images [B, C, H, W]`` in one of ``LAYOUTS``."""
    if layout == LAYOUT:
        return images.contiguous(memory_format=torch.channels_last)
    return images.clone(memory_format=torch.contiguous_format)  # contiguous() keeps the strides of grey images
