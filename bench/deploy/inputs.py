"""Networks of several inputs: what measures and cuts a network gives it one tensor, in which all inputs lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import UsageError

ONE = "give one batch of the network's input, a tensor with a batch axis, or a tuple or dict of such tensors"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a network, of which it has several or which it takes by name.

    Attributes:
        shapes: of each, without the batch axis.
        names: of its arguments; empty where they are given by position.
    """

    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        sizes = ["x".join(map(str, shape)) or "a number" for shape in self.shapes]
        return " and ".join(f"{name}: {size}" for name, size in zip(self.names, sizes)) or " and ".join(sizes)

    def tensors(self, given: Any) -> list[Tensor] | None:
        """A batch of all inputs, if ``given`` is one."""
        if isinstance(given, Mapping):
            found = [given.get(name) for name in self.names]
        else:
            found = list(given) if isinstance(given, (tuple, list)) and not self.names else []
        tensors = [t for t, shape in zip(found, self.shapes) if isinstance(t, Tensor) and t.shape[1:] == shape]
        return tensors if len(tensors) == len(found) == len(self.shapes) else None

    def arguments(self, x: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the network is called with, of what :func:`packed` made, ``[B, n]``."""
        parts = x.split([math.prod(shape) for shape in self.shapes], dim=1)
        whole = [
            part.contiguous().unflatten(1, shape) if shape else part.squeeze(1)
            for part, shape in zip(parts, self.shapes)
        ]
        return ((), dict(zip(self.names, whole))) if self.names else (tuple(whole), {})


def packed(tensors: list[Tensor]) -> Tensor:
    """All inputs as one tensor ``[B, n]``."""
    return torch.cat([t.reshape(len(t), -1) for t in tensors], dim=1)


def with_inputs(network: nn.Module, inputs: Inputs | None) -> nn.Module:
    """``network`` itself, which takes what :func:`packed` gives from now on; None changes nothing.

    Only its class is another one, of the same name. Names of layers, weights and other attributes stay.
    """
    if inputs is None:
        return network
    kind = type(network)

    def forward(self: Any, x: Tensor) -> Any:
        args, named = inputs.arguments(x)
        return kind.forward(self, *args, **named)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return network


def called(network: nn.Module, inputs: Inputs | None, x: Tensor) -> Any:
    """The output of a network that takes its inputs as it always did."""
    if inputs is None:
        return network(x)
    args, named = inputs.arguments(x)
    return network(*args, **named)


def inputs_of(example: Any) -> tuple[Tensor, Inputs | None]:
    """A batch as one tensor, and what lies where in it, None for a single input. Raises UsageError for others."""
    if isinstance(example, tuple) and len(example) == 1:
        (example,) = example
    if isinstance(example, Tensor):
        if example.dim() < 2 or not len(example):
            raise UsageError(f"example is of shape {list(example.shape)}: {ONE}")
        if not example.is_floating_point():
            raise UsageError(f"example is {example.dtype}: networks are pruned whose inputs are floating point numbers")
        return example, None
    named = isinstance(example, Mapping)
    tensors = list(example.values()) if named else list(example) if isinstance(example, tuple) else []
    if not tensors:
        raise UsageError(f"example is a {type(example).__name__}: {ONE}")
    for name, tensor in zip(example if named else range(len(tensors)), tensors):
        what = f"example[{name!r}] is"
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{what} a {type(tensor).__name__}: {ONE}")
        if not tensor.is_floating_point() or tensor.dtype != tensors[0].dtype:
            raise UsageError(f"{what} {tensor.dtype}: several inputs are of one dtype, a floating point one")
        if not tensor.dim() or not len(tensor) or len(tensor) != len(tensors[0]):
            raise UsageError(f"{what} of shape {list(tensor.shape)}: the first axis of all inputs is the batch")
        if tensor.device != tensors[0].device:
            raise UsageError(f"{what} on {tensor.device}, another input on {tensors[0].device}")
    inputs = Inputs(tuple(tuple(t.shape[1:]) for t in tensors), tuple(example) if named else ())
    return packed(tensors), inputs
