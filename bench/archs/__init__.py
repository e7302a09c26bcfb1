"""Architectures, defined so that slicing works. ``build`` is the way in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.errors import RunFailed, UsageError
from bench.registry import ARCHS

Shape = tuple[int, int, int]
"""Channels, height and width of one input image."""


def architecture(name: str, *, min_size: int = 1, **options: Any) -> Callable[[Callable], Callable]:
    """Register ``factory(*, shape, num_classes, **options) -> nn.Module`` as ``name``.

    Several decorators on one factory give it several names. ``min_size`` is the smallest image side it
    accepts.
    """

    def decorate(factory: Callable) -> Callable:
        code = inspect.unwrap(factory).__code__
        origin = f"{code.co_filename}:{code.co_firstlineno}"

        def make(shape: Shape, num_classes: int) -> nn.Module:
            if min(shape[1:]) < min_size:
                raise UsageError(
                    f"architecture '{name}' needs images of at least {min_size}x{min_size} pixels, "
                    f"these have {shape[1]}x{shape[2]}: choose another data set or architecture"
                )
            return factory(shape=shape, num_classes=num_classes, **options)

        ARCHS.register(name, make, f"{origin} ({name})")
        return factory

    return decorate


def build(name: str, shape: Shape, num_classes: int, seed: int = 0) -> nn.Module:
    """The network ``name`` for images of ``shape`` with weights drawn from ``seed``; the global RNG is left alone.

    Raises:
        UsageError: unknown name, or images too small for it.
        RunFailed: the definition itself fails.
    """
    make = ARCHS.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = make(shape, num_classes)
        except UsageError:
            raise
        except Exception as error:
            raise RunFailed(f"architecture '{name}' cannot be built: {type(error).__name__}: {error}") from error
        initialize(network)
    return network


def initialize(network: nn.Module) -> None:
    """Draw all weights afresh from the global RNG: He-normal (fan out) for convolutions, PyTorch's default elsewhere.

    A network that has a method ``draw_weights()`` draws its own in place of these; what it leaves out (norms, say)
    is reset to PyTorch's default.
    Source: He et al. 2015, eq. 14, as used for residual networks.
    """
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    draw = getattr(network, "draw_weights", None)
    if callable(draw):
        draw()
