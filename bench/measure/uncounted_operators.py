"""Operators that no counter of MACs knows: which of them are cheap, and a bound of the work of the others."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHEAP = re.compile(
    r"""_?(adaptive_|fractional_)?(avg|max)_(un)?pool\dd(_with_indices)? | _?upsample_\w+ | grid_sampler_\dd
    | _?(native|fused)_\w+_norm\w* | _weight_norm\w* | _?(log_|safe_)?softmax
    | hardswish | glu | _prelu_kernel | log_sigmoid_forward | rrelu_with_noise | unsafe_(split|chunk)\w*
    | (constant|reflection|replication)_pad_?\w+ | cat | stack | repeat(_interleave)? | roll | flip | rot90
    | im2col | col2im | pixel_(un)?shuffle | (native_)?channel_shuffle | tril | triu | diag_embed
    | (feature_)?(alpha_)?dropout | to | type_as | expand_as | clone | contiguous
    | embedding | gather | scatter(_\w+)? | \w+_scatter | (_unsafe_)?(index|masked|select)(_\w+)? | take | nonzero
    | complex | polar | one_hot | isin | bucketize | searchsorted | _local_scalar_dense | _unsafe_view | copy | \w+_copy
    | (zeros|ones|empty|full|rand|randn)_like | new_\w+ | fill | zero | resize
    | sort | topk | kthvalue | median | mode | _?unique\w* | cum(sum|prod|max|min)""",
    re.VERBOSE,
)
"""Primitive operators whose work is at most a constant (or a pooling window) for each element, like that of the
operators torch tags ``pointwise`` or ``reduction``: zero MACs where fvcore has no rule."""


class Hidden(TorchDispatchMode):
    """Bounds the work of primitive operators that are neither in ``counted`` nor cheap.

    Attributes:
        bounds: operator -> elements of its outputs times elements of its inputs, summed over calls: products of
            tensors, transforms and recurrent cells combine each output with each input once at most.
    """

    def __init__(self, counted: dict[Any, Any]) -> None:
        super().__init__()
        self.counted, self.bounds = counted, Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in self.counted and not _cheap(func):
            bound = _elements(out) * _elements((args, kwargs))
            if bound:
                self.bounds[str(func.overloadpacket)] += bound
        return out


@cache
def _cheap(func: Any) -> bool:
    """Whether an operator does a constant amount of work for each element, or none (a view)."""
    if func.namespace not in ("aten", "prim"):
        return False
    return _cheap_packet(func.overloadpacket)


def is_cheap_by_name(op: str) -> bool:
    """:func:`_cheap` of an operator as fvcore names it, ``aten::relu``."""
    space, _, name = op.partition("::")
    packet = getattr(torch.ops.aten, name, None) if space == "aten" else None
    return packet is not None and _cheap_packet(packet)


def _cheap_packet(packet: Any) -> bool:
    name = packet.__name__.removesuffix("_")
    plain = getattr(torch.ops.aten, name, packet)  # in-place variants are not marked
    overloads = [getattr(plain, overload) for overload in plain.overloads()]
    view = any(r.alias_info is not None and not r.alias_info.is_write for o in overloads for r in o._schema.returns)
    marked = any({torch.Tag.pointwise, torch.Tag.reduction} & set(overload.tags) for overload in overloads)
    return view or marked or CHEAP.fullmatch(name) is not None


def _elements(tree: Any) -> int:
    return sum(leaf.numel() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
