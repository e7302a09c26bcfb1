"""Architectures, defined so that slicing works. ``build`` is the way in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.errors import ARCHITECTURE, BenchError, RunFailed, UsageError
from bench.models.external import require_fit
from bench.models.logits import with_logits
from bench.spec.registry import ARCHS

Shape = tuple[int, int, int]
"""Channels, height and width of one input image."""


@dataclass(frozen=True)
class Architecture:
    """A registered network: how to make it, and for which images.

    Attributes:
        name: on the command line.
        factory: ``factory(*, shape, num_classes, **options)`` makes it.
        options: of this name.
        min_size: smallest image side it takes.
        own_weights: the factory draws the weights; otherwise :func:`initialize` does.
    """

    name: str
    factory: Callable[..., nn.Module]
    options: dict[str, Any]
    min_size: int = 1
    own_weights: bool = False

    def __call__(self, shape: Shape, num_classes: int, download: bool = False) -> nn.Module:
        """The network; raises UsageError for images that are too small."""
        if min(shape[1:]) < self.min_size:
            raise UsageError(
                f"architecture '{self.name}' needs images of at least {self.min_size}x{self.min_size} pixels, "
                f"these have {shape[1]}x{shape[2]}: choose another data set or architecture"
            )
        network = self.factory(shape=shape, num_classes=num_classes, **self.options)
        return with_logits(network, getattr(self.factory, "logits", None))


def architecture(
    name: str, *, min_size: int = 1, own_weights: bool = False, **options: Any
) -> Callable[[Callable], Callable]:
    """Register ``factory(*, shape, num_classes, **options) -> nn.Module`` as ``name``.

    Several decorators on one factory give it several names. For ``min_size`` and ``own_weights`` see
    :class:`Architecture`.
    """

    def decorate(factory: Callable) -> Callable:
        code = inspect.unwrap(factory).__code__
        origin = f"{code.co_filename}:{code.co_firstlineno} ({name})"
        ARCHS.register(name, Architecture(name, factory, options, min_size, own_weights), origin)
        return factory

    return decorate


def build(name: str, shape: Shape, num_classes: int, seed: int = 0, download: bool = False) -> nn.Module:
    """The network ``name`` for images of ``shape`` with weights drawn from ``seed``; the global RNG is left alone.

    Raises:
        UsageError: unknown name, or images it does not take.
        SetupError: pretrained weights that are not here, without ``download``.
        RunFailed: the definition itself fails.
    """
    make = ARCHS.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = make(shape, num_classes, download=download)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # of whatever kind, of a user's own file
            why = f"architecture '{name}' cannot be built: {type(error).__name__}: {error}"
            raise RunFailed(why, blame=ARCHITECTURE) from error
        if not isinstance(make, Architecture):
            require_fit(name, network, shape, num_classes)
        elif not make.own_weights:
            initialize(network)
    return network


def initialize(network: nn.Module) -> None:
    """Draw all weights from the global RNG: He-normal (fan out) for convolutions, PyTorch's default elsewhere.

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
