"""Layers of the suite that implement their own slicing."""

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

    def stand_in(self) -> nn.Conv2d:
        """The 1x1 selector convolution with the same output, for tools that trace convolutions only."""
        with torch.random.fork_rng(devices=[]):  # its random first weights are of no use
            conv = nn.Conv2d(self.in_channels, self.out_channels, 1, self.stride, bias=False)
        with torch.no_grad():
            conv.weight.zero_()
            for o, i in enumerate(self.source.tolist()):
                if i >= 0:
                    conv.weight[o, i] = 1
        return conv


class Attention(nn.Module):
    """Multi-head self-attention whose heads can be sliced (Vaswani et al. 2017, section 3.2).

    Called like :class:`torch.nn.MultiheadAttention` with ``batch_first`` and one tensor three times, and gives the
    same output. The number of heads follows from the width of its layers.

    Shapes: ``[B, T, dim] -> [B, T, dim]``, and None in place of attention weights.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    @classmethod
    def like(cls, other: nn.MultiheadAttention) -> Attention:
        """The same function with the weights of torch's layer; raises ValueError for variants it does not have."""
        odd = other.in_proj_weight is None or other.in_proj_bias is None or other.bias_k is not None
        if odd or other.add_zero_attn or other.dropout or not other.batch_first:
            raise ValueError("attention with other keys, without biases, with dropout or not batch first")
        made = cls(other.embed_dim, other.num_heads)
        made.qkv.weight, made.qkv.bias = other.in_proj_weight, other.in_proj_bias
        made.proj.weight, made.proj.bias = other.out_proj.weight, other.out_proj.bias
        return made

    def forward(self, x: Tensor, *same: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        """Attend over the ``T`` tokens of ``x``; raises ValueError when keys or values are another tensor."""
        if any(other is not x for other in same):
            raise ValueError("Attention is self-attention: give it one tensor, or the same one three times")
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None

    def units(self) -> tuple[str, str, list[int], list[int]]:
        """The layer that makes the heads, the one that reads them, and the head of each of their channels."""
        width = self.proj.in_features
        head_of = [channel // self.head_dim for channel in range(width)]
        return "qkv", "proj", 3 * head_of, head_of

    def stand_in(self) -> nn.Module:
        """A linear layer, called in the same way: the same dependencies from outside, for tools that trace layers."""
        return _CalledLikeAttention(self.qkv.in_features)


class _CalledLikeAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.stand_in = nn.Linear(dim, dim)

    def forward(self, x: Tensor, *same: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        return self.stand_in(x), None
