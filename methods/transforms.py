"""Fixed orthonormal transforms, the layer that drops their coefficients, and its exact fold into a consumer."""

import math
from functools import cache

import torch
from torch import nn


def dct(n):
    """DCT-II, orthonormal, float64 ``[n, n]``: row k is the k-th frequency (as ``scipy.fft.dct(norm="ortho")``)."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


def dht(n):
    """Discrete Hartley transform, orthonormal, symmetric, its own inverse, float64 ``[n, n]``."""
    index = torch.arange(n, dtype=torch.float64)
    angle = 2 * math.pi * index[:, None] * index / n
    return (angle.cos() + angle.sin()) / math.sqrt(n)


MOST = 4096
"""Values that one matrix transforms at most: it has their square (64 MiB here)."""


@cache
def matrix(transform, n, square=False, device="cpu"):
    """``dct`` or ``dht`` of ``n`` values, float32 ``[n, n]``; ``square``: of ``q x q`` values where ``n = q * q``."""
    if n > MOST:
        raise ValueError(f"{transform} of {n:,} values at once, at most {MOST:,}: choose axis=channel or transform=dft")
    basis, side = {"dct": dct, "dht": dht}[transform], math.isqrt(n)
    both = square and side * side == n
    return (torch.kron(basis(side), basis(side)) if both else basis(n)).float().to(device)


def fold(consumer, kept):
    """The consumer of channels that were projected on some rows of a transform, reading their coefficients instead.

    Args:
        consumer: convolution or linear layer with C inputs.
        kept: rows ``[n', C]`` of an orthonormal transform.

    Returns:
        Weight ``[out, n', ...]`` that gives on ``kept @ a`` what the consumer's gives on ``kept.T @ kept @ a``, also
        at borders padded with zeros, which the transform maps to zeros.
    """
    return torch.einsum("oc...,kc->ok...", consumer.weight, kept.to(consumer.weight))


class SpectralDropout(nn.Module):
    """``y = T^T (m * T a)``: strong coefficients pass, weak ones at random (Khan et al. 2019).

    Args:
        config: the method's options.
        generator: of the random draws.
    """

    def __init__(self, config, generator):
        super().__init__()
        self.config, self.generator = config, generator
        self.register_buffer("alpha", torch.tensor(torch.nan, device=generator.device))
        self.register_buffer("warm", torch.tensor(1.0, device=generator.device))  # share of the full strength
        self.mask = torch.ones(1)  # the last one of training
        self.width = 0  # of what is transformed now

    def forward(self, a, hard=False):
        """``[B, n_units, ...]`` to the same shape; ``hard`` leaves nothing to chance. Transforms run in float32."""
        axis = self.config.axis
        with torch.autocast(a.device.type, enabled=False):
            x = (a[..., 0] if a.shape[2:] == (1,) else a).float()  # the one position of linear units is no axis
            x = x.flatten(1) if axis == "flat" else x.movedim(1, -1) if axis == "channel" else x
            self.width = x.shape[-1]
            spectrum = self.turned(x)
            mask = self.keep(spectrum, hard)
            y = self.turned(spectrum * mask, back=x.shape)
        self.mask = mask if self.training else self.mask
        return (y.movedim(-1, 1) if axis == "channel" else y).reshape(a.shape).to(a.dtype)

    def axes(self, x):
        """The axes that are transformed: both of a map, else the last."""
        return (-2, -1) if self.config.axis == "spatial" and x.dim() == 4 else (-1,)

    def turned(self, x, back=None):
        """The transform over the last axis (the last two of a map), or its inverse ``back`` to a shape."""
        c, axes = self.config, self.axes(x)
        if c.transform == "dft" and back is None:
            return torch.fft.rfftn(x, dim=axes, norm="ortho")
        if c.transform == "dft":
            return torch.fft.irfftn(x, s=[back[axis] for axis in axes], dim=axes, norm="ortho")
        for axis in axes:
            t = matrix(c.transform, x.shape[axis], c.axis == "channel", x.device)
            x = (x.movedim(axis, -1) @ (t.T if back is None else t)).movedim(-1, axis)
        return x

    @torch.no_grad()
    def keep(self, spectrum, hard):
        """The mask of coefficients; strong is what exceeds ``tau``, or ``alpha`` times the example's mean size."""
        c, size = self.config, spectrum.abs()
        scale = size.flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-12).reshape(-1, *[1] * (size.dim() - 1))
        if self.alpha.isnan():  # the first batch sets which share is weak
            ratios = (size / scale).flatten()
            weak = round(c.weak * len(ratios))
            self.alpha.fill_(ratios.kthvalue(weak).values if weak else 0.0)
        strong = size > (self.alpha * scale if c.tau is None else c.tau)
        chance = 1 - self.warm * (1 - c.p_keep)
        if hard or c.rule == "hard" or (not self.training and c.inference == "hard"):
            return strong.float()
        if not self.training:
            drawn = chance if c.inference == "expect" else 1.0
        else:
            drawn = (torch.rand(size.shape, generator=self.generator, device=size.device) < chance).float()
            if c.transform == "dft" and len(self.axes(size)) == 2:  # conjugate pairs: one draw for both
                row = torch.arange(size.shape[-2], device=size.device)
                for column in (0,) if self.width % 2 else (0, -1):
                    drawn[..., column] = drawn[..., column][..., torch.minimum(row, -row % len(row))]
        return torch.where(strong, 1.0, drawn) if c.rule == "or" else strong * drawn
