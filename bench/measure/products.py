"""The products of a network one by one: what each costs, and which of its weights are zero.

Modules and exported programs are read from the primitive operators of one forward pass, so the names of their modules
do not matter; :mod:`bench.measure.onnx_macs` reads files.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measure.flops import no_fast_path, unfused
from bench.models.shared_parameters import copied, plain


@dataclass(frozen=True)
class Product:
    """One product of a network.

    Attributes:
        name: of the node of a graph, else its place among the products.
        kind: ``conv``, ``linear`` or ``matmul``.
        macs: of one image.
        outputs: elements of its output for one image.
        inputs: elements that it reads for one image, weights not included.
        bias: whether it adds one.
        zero: which weights of each output channel are zero, bool ``[channels, N]``; None where there are no weights,
            but two factors that depend on the image.
    """

    name: str
    kind: str
    macs: int
    outputs: int
    inputs: int
    bias: bool
    zero: np.ndarray | None


@dataclass(frozen=True)
class NetworkCount:
    """What one image costs.

    Attributes:
        products: in the order in which they are computed.
        others: other operators -> elements of their outputs; of pooling and means, of their inputs.
    """

    products: tuple[Product, ...]
    others: dict[str, int]

    @property
    def macs(self) -> int:
        """Of all products."""
        return sum(product.macs for product in self.products)

    def by_kind(self) -> dict[str, int]:
        """Kind -> MACs."""
        found = Counter[str]()
        for product in self.products:
            found[product.kind] += product.macs
        return dict(sorted(found.items()))

    def zeros(self) -> tuple[int, int, int, int]:
        """Output channels, how many of them are all zero, weights, how many of them are zero."""
        known = [product.zero for product in self.products if product.zero is not None]
        counts = [(len(zero), int(zero.all(axis=1).sum()), zero.size, int(zero.sum())) for zero in known]
        channels, empty, weights, nothing = (sum(column) for column in zip(*counts)) if counts else (0, 0, 0, 0)
        return channels, empty, weights, nothing


def read(network: nn.Module, shape: tuple[int, ...]) -> NetworkCount:
    """The products of a network in eval mode on one image of ``shape``; the network is left as it is."""
    seen, x = unfused(plain(copied(network).float().cpu()).requires_grad_(False), torch.zeros(1, *shape))
    reading = _Reading({p.untyped_storage().data_ptr() for p in seen.parameters()})
    # as they are counted: attention is made of matrix products
    with torch.no_grad(), no_fast_path(), sdpa_kernel(SDPBackend.MATH), reading:
        seen(x)
    return NetworkCount(tuple(reading.products), dict(reading.others))


class _Reading(TorchDispatchMode):
    """Notes the products of all operators that run in it."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.products, self.others = weights, list[Product](), Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            x, weight, bias, *_, transposed, _, groups = args
            macs = len(x) * math.prod(x.shape[2:]) * weight.numel() if transposed else 0
            macs = macs or out.numel() * math.prod(weight.shape[1:])
            if transposed:
                weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            self._add("conv", macs, out, x, bias is not None, weight)
        elif name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:]
            rows = (right.transpose(-1, -2), left)  # one a channel
            weight = next((w for w in rows if w.untyped_storage().data_ptr() in self.weights), None)
            kind, depth = "matmul" if weight is None else "linear", left.shape[-1]
            weight = None if weight is None else weight.reshape(-1, depth)
            self._add(kind, out.numel() * depth, out, left, name == "addmm", weight)
        else:
            sized = args[0] if ("pool" in name or name == "mean") and args else out
            first = sized[0] if isinstance(sized, tuple | list) and sized else sized
            if isinstance(first, Tensor):
                self.others[name.rstrip("_")] += first.numel()
        return out

    def _add(self, kind: str, macs: int, out: Tensor, x: Tensor, bias: bool, weight: Tensor | None) -> None:
        zero = None if weight is None else (weight.flatten(1) == 0).numpy()
        place = f"{kind} {len(self.products)}"
        self.products.append(Product(place, kind, macs, out.numel(), x.numel(), bias, zero))
