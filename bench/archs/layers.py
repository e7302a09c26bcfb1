"""Layers of our own that a slice has to understand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelPad(nn.Module):
    """Parameter-free residual shortcut (He et al. 2016, option A): subsample in space, pad channels with zeros.

    Output channel ``o`` is input channel ``source[o]``, or zero where ``source[o]`` is -1; slicing only edits
    ``source``.

    Shapes: ``[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)]``.
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        left = (out_channels - in_channels) // 2
        source = torch.full((out_channels,), -1)
        source[left : left + in_channels] = torch.arange(in_channels)
        self.register_buffer("source", source, persistent=False)
        self._set(source, in_channels)

    def _set(self, source: Tensor, in_channels: int) -> None:
        self.source = source
        self.in_channels, self.out_channels = in_channels, len(source)
        used = (source >= 0).nonzero().flatten()
        whole = len(used) == in_channels and torch.equal(source[source >= 0].cpu(), torch.arange(in_channels))
        block = len(used) == 0 or int(used[-1] - used[0]) + 1 == len(used)
        # A plain pad is faster than a gather and is what the dense network always has.
        self.padding = (int(used[0]), self.out_channels - int(used[-1]) - 1) if whole and block and len(used) else None

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad ``x``."""
        x = x[:, :, :: self.stride, :: self.stride]
        if self.padding is not None:
            return F.pad(x, (0, 0, 0, 0, *self.padding))
        zero = F.pad(x, (0, 0, 0, 0, 0, 1))
        return zero.index_select(1, torch.where(self.source < 0, self.in_channels, self.source))

    def slice_channels(self, keep_in: Tensor, keep_out: Tensor) -> None:
        """Keep the input and output channels that the boolean masks name; removed inputs become zeros."""
        keep_in, keep_out = keep_in.to(self.source.device), keep_out.to(self.source.device)
        new_index = torch.where(keep_in, keep_in.cumsum(0) - 1, -1)
        source = torch.where(self.source >= 0, new_index[self.source.clamp(min=0)], -1)[keep_out]
        self._set(source, int(keep_in.sum()))

    def as_conv(self) -> nn.Conv2d:
        """The 1x1 selector convolution with the same output, for tools that trace convolutions only."""
        with torch.random.fork_rng(devices=[]):  # its random first weights are of no use
            conv = nn.Conv2d(self.in_channels, self.out_channels, 1, self.stride, bias=False)
        with torch.no_grad():
            conv.weight.zero_()
            for o, i in enumerate(self.source.tolist()):
                if i >= 0:
                    conv.weight[o, i] = 1
        return conv
