"""Labels: which unit each element of a tensor belongs to, followed through the operators of a forward pass.

A label is a whole number: positive for a channel that a layer makes, negative for something that has no units (the
image, a parameter), 0 for what goes with anything (padding). Operators that move elements move their labels;
operators that combine elements note which labels belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Shape = Sequence[int]

SAME = ("clone", "_to_copy", "detach", "alias", "lift_fresh", "dropout", "native_dropout", "contiguous")
VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")
MOVES = (
    *("permute", "transpose", "t", "expand", "slice", "select", "squeeze", "unsqueeze", "narrow", "diagonal"),
    *("split", "split_with_sizes", "unbind", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "chunk"),
    *("cat", "stack", "index", "index_select", "gather", "take", "roll", "flip", "rot90", "repeat", "unfold"),
    *("constant_pad_nd", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col"),
)
"""Operators whose results hold elements of their first argument as they are."""
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "dot")
ELEMENTWISE = ("hardswish", "log_sigmoid_forward", "rrelu_with_noise", "_prelu_kernel", "copy")
"""Operators that combine elements at the same place, in addition to those that torch tags ``pointwise``."""
ALONG = ("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "topk", "kthvalue", "median", "mode")
"""Operators that mix the elements along an axis, in addition to those that torch tags ``reduction``."""


@dataclass(frozen=True)
class Flow:
    """What is known of one tensor.

    Attributes:
        labels: int64, of the tensor's dimensions, each of its size or of size 1 where labels are the same along it.
        step: number of the operator that made the tensor.
        behind: bits of the steps that it was computed from, its own included.
        makers: the layers that its values come from, as far as the last layer on each path.
    """

    labels: Tensor
    step: int = 0
    behind: int = 0
    makers: frozenset[str] = frozenset()


@dataclass
class Ledger:
    """What is found out about labels in a forward pass.

    Attributes:
        foreign: what each negative label is, as a reason why a unit that meets it is fixed.
        fixed: labels that cannot be removed, each with the reason; the first one counts.
        mixed: labels that are mixed along an axis, so that they go together, each with a reason in case that makes
            one unit of all.
        heads: labels of products between units, as in attention.
    """

    foreign: list[str] = field(default_factory=list)
    fixed: list[tuple[NDArray[np.int64], str]] = field(default_factory=list)
    mixed: list[tuple[NDArray[np.int64], str]] = field(default_factory=list)
    heads: list[NDArray[np.int64]] = field(default_factory=list)
    _pairs: list[NDArray[np.int64]] = field(default_factory=list)
    _last: int = 0

    def fresh(self, n: int) -> Tensor:
        """``n`` labels of their own."""
        self._last += n
        return torch.arange(self._last - n + 1, self._last + 1)

    def name_foreign(self, why: str) -> int:
        """The label of something without units."""
        if why not in self.foreign:
            self.foreign.append(why)
        return -1 - self.foreign.index(why)

    def fix(self, labels: Tensor, why: str) -> None:
        """The units with these labels cannot be removed."""
        found = _positive(labels)
        if len(found):
            self.fixed.append((found, why))

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Labels at the same place go together; what meets something without units is fixed."""
        a, b = (t.flatten() for t in torch.broadcast_tensors(a, b))
        both = (a > 0) & (b > 0) & (a != b)
        if both.any():
            self._pairs.append(torch.stack([a[both], b[both]]).unique(dim=1).numpy())
        for one, other in ((a, b), (b, a)):
            met = (one > 0) & (other < 0)
            for k in other[met].unique().tolist():
                self.fix(one[met & (other == k)], self.foreign[-1 - k])

    def mix(self, labels: Tensor, dims: Iterable[int], why: str) -> Tensor:
        """Labels along these axes go together; the result has size 1 there.

        Args:
            labels: labels of a tensor, of size 1 along axes along which they are the same.
            dims: the axes.
            why: what mixes them.
        """
        for dim in dims:
            if labels.dim() and labels.shape[dim] > 1:
                most = labels.amax(dim, keepdim=True)
                first = torch.where(most > 0, most, labels.amin(dim, keepdim=True))
                self.unite(labels, first)
                self.mixed.append((_positive(labels), why))
                labels = first
        return labels

    def classes(self) -> NDArray[np.int64]:
        """For each label the smallest label that it goes together with."""
        root = np.arange(self._last + 1)
        pairs = np.concatenate([np.empty((2, 0), np.int64), *self._pairs], axis=1)
        while True:
            a, b = root[pairs]
            low = np.minimum(a, b)
            if (a == b).all():
                return root
            np.minimum.at(root, a, low)
            np.minimum.at(root, b, low)
            while (root != root[root]).any():
                root = root[root]


def _positive(labels: Tensor) -> NDArray[np.int64]:
    found: NDArray[np.int64] = labels[labels > 0].unique().numpy()
    return found


def compact(labels: Tensor) -> Tensor:
    """``labels`` with size 1 along each axis along which they are the same."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if stride == 0 or torch.equal(first.expand_as(labels), labels):
                labels = first
    return labels


def reshaped(labels: Tensor, old: Shape, new: Shape) -> Tensor:
    """Labels of a tensor of shape ``old`` when that is seen as ``new``; not spread out where they are all the same."""
    if 0 in old:
        return compact(labels.expand(old).reshape(new))
    before: list[int] = []
    after: list[int] = []
    i = j = 0
    while i < len(old) and j < len(new):
        first, then, a, b = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while a != b:  # until these axes of the one hold as much as those of the other
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        varies = any(n > 1 for n in labels.shape[first:i])
        before += old[first:i] if varies else [1] * (i - first)
        after += new[then:j] if varies else [1] * (j - then)
    return compact(labels.expand(before + [1] * (len(old) - i)).reshape(after + [1] * (len(new) - j)))


def join(ledger: Ledger, parts: Sequence[tuple[Tensor, Shape]], where: str) -> Tensor:
    """Labels of an elementwise combination of tensors with these labels and shapes, which broadcast.

    A tensor of size 1 along an axis along which the units of another lie has one value for all of them: that does not
    make them one, but it cannot be removed itself.
    """
    dims = max(len(shape) for _, shape in parts)
    aligned = [(t[(None,) * (dims - t.dim())], (1,) * (dims - len(s)) + tuple(s)) for t, s in parts]
    found, shape = aligned[0]
    for labels, other in aligned[1:]:
        wide = [a == 1 < n for a, n in zip(shape, labels.shape, strict=True)]
        narrow = [b == 1 < n for b, n in zip(other, found.shape, strict=True)]
        if any(wide) or any(narrow):
            if any(wide):
                ledger.fix(found, f"{where} combines each of its channels with several units")
            if any(narrow):
                ledger.fix(labels, f"{where} combines each of its channels with several units")
            found = labels if any(wide) else found
        else:
            a, b = torch.broadcast_tensors(found, labels)
            ledger.unite(a, b)
            if a.shape != found.shape and b.shape != labels.shape:  # each varies where the other does not
                why = f"{where} combines each of its channels with several units"
                ledger.mixed += [(_positive(t), why) for t in (found, labels)]
            found = compact(torch.where(a > 0, a, torch.where((b > 0) | (a == 0), b, a)))
        shape = tuple(max(a, b) for a, b in zip(shape, other, strict=True))
    return found


class Rules:
    """How labels pass through the primitive operators of torch.

    Args:
        ledger: where it is noted which labels go together.
        flow_of: the flow of a tensor that an operator is given.
    """

    def __init__(self, ledger: Ledger, flow_of: Callable[[Tensor], Flow]) -> None:
        self.ledger, self.flow_of = ledger, flow_of

    def apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, where: str) -> list[Tensor]:
        """Labels of the tensors in ``out``, which ``func`` gave; of the first one where the others are by-products.

        Args:
            func: the operator.
            args: its arguments, in the order of its schema.
            kwargs: its keyword arguments.
            out: its result.
            where: the module that calls it, for reasons.
        """
        name = func.overloadpacket.__name__.removesuffix("_")
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        schema = func._schema.arguments
        given = {a.name: a.default_value for a in schema} | dict(zip((a.name for a in schema), args)) | kwargs
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not inputs or name.startswith("new_") or name.endswith("_like"):
            return [torch.zeros((1,) * t.dim(), dtype=torch.int64) for t in results]
        first = inputs[0]
        if name in SAME:
            return [self.labels(first)] * len(results)
        if name in VIEWS and results[0].numel() == first.numel():
            return [reshaped(self.labels(first), first.shape, results[0].shape)]
        if name in MOVES:
            return self._move(func, name, args, kwargs)
        if name in PRODUCTS:
            return [self._product(inputs, results[0], where)]
        if name == "glu":
            halves = self.labels(first).expand(first.shape).chunk(2, given["dim"])
            return [join(self.ledger, [(compact(half), half.shape) for half in halves], where)]
        tags, text = _tags(func), f"{where} depends on all its units at once"
        if "reduction" in tags or name in ALONG:
            return self._reduce(first, given.get("dim"), results, text)
        if "pointwise" in tags or name in ELEMENTWISE:
            return [join(self.ledger, [(self.labels(t), t.shape) for t in inputs], where)]
        if "normalized_shape" in given:
            dims = range(first.dim() - len(given["normalized_shape"]), first.dim())
            return [self.ledger.mix(self.labels(first), dims, text)]
        return [self._by_shape(inputs, results[0], f"{name} in {where}")]

    def labels(self, tensor: Tensor) -> Tensor:
        """Labels of ``tensor``, of size 1 along axes along which they are the same."""
        return self.flow_of(tensor).labels

    def _move(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The operator itself, on labels; an index stays what it is."""

        def full(value: Any) -> Any:
            return self.labels(value).expand(value.shape) if isinstance(value, Tensor) else value

        if name == "constant_pad_nd":
            return [self._pad(args[0], args[1])]
        data: Any = tree_map(full, args[0])
        if name == "im2col":  # which takes no whole numbers
            data = data.double()
        return [compact(t.long()) for t in tree_leaves(func(data, *args[1:], **kwargs))]

    def _pad(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Padding; along an axis of the image it belongs to the same units."""
        labels = self.labels(x)
        varies = [n > 1 for n in labels.shape]
        for k in range(len(sizes) // 2):
            dim, around = x.dim() - 1 - k, sizes[2 * k : 2 * k + 2]
            if any(around) and (varies[dim] or not any(varies)) and (varies[dim] or x.shape[dim] == 1):
                labels = labels.expand([x.shape[d] if d == dim else n for d, n in enumerate(labels.shape)])
                labels = torch.nn.functional.pad(labels, [0, 0] * k + list(around))
        return compact(labels)

    def _product(self, inputs: list[Tensor], out: Tensor, where: str) -> Tensor:
        """A product of (stacks of) matrices, to which something may be added.

        The summed axis goes together; so do the units of both factors, as the heads of attention do. A factor without
        units cannot lose what it sums.
        """
        left, right = (self.labels(t) for t in inputs[-2:])
        left = left if left.dim() > 1 else left[None]
        right = right if right.dim() > 1 else right[:, None]
        units = bool((left > 0).any()), bool((right > 0).any())
        if sum(units) == 1 and (left.shape[-1] if units[0] else right.shape[-2]) > 1:
            why = f"{where} multiplies its units by a matrix that is no layer's weight"
            self.ledger.fix(left if units[0] else right, why)
            left, right = left.amax(-1, keepdim=True), right.amax(-2, keepdim=True)
        text = f"{where} depends on all its units at once"
        left, right = self.ledger.mix(left, [-1], text), self.ledger.mix(right, [-2], text)
        if all(units):
            self.ledger.heads.extend((_positive(left), _positive(right)))
            shape = out.shape if out.dim() > 1 else (*out.shape, 1, 1)[:2]
            found = join(self.ledger, [(left, shape), (right, shape)], where)
        elif any(units):
            found = left if units[0] else right
        else:
            foreign = self.ledger.name_foreign(f"its units meet a product in {where}, whose channels are no units")
            found = torch.full_like(left, foreign)
        found = found if out.dim() > 1 else found.reshape(found.shape[: out.dim()])
        if len(inputs) == 2:
            return found
        return join(self.ledger, [(found, out.shape), (self.labels(inputs[0]), inputs[0].shape)], where)

    def _reduce(self, x: Tensor, dim: Any, results: list[Tensor], why: str) -> list[Tensor]:
        """Sums, means, extremes, softmax, sorting: what lies along the axes goes together."""
        axes = list(range(x.dim())) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
        mixed = self.ledger.mix(self.labels(x), axes, why)
        gone = {axis % x.dim() for axis in axes if x.dim()}
        kept = [size for d, size in enumerate(mixed.shape) if d not in gone]
        return [mixed if t.dim() == x.dim() else mixed.reshape(kept) for t in results]

    def _by_shape(self, inputs: list[Tensor], out: Tensor, where: str) -> Tensor:
        """Any other operator (pooling, interpolation): units pass along axes whose size it leaves as it is."""
        parts = []
        for tensor in inputs:
            labels = self.labels(tensor)
            if tensor.dim() == out.dim() and all(
                n == 1 or a == b for n, a, b in zip(labels.shape, tensor.shape, out.shape, strict=True)
            ):
                parts.append((labels, out.shape))
            else:
                self.ledger.fix(labels, f"slicing does not know {where}")
        if parts:
            return join(self.ledger, parts, where)
        foreign = self.ledger.name_foreign(f"its units meet the output of {where}, whose channels are no units")
        return torch.full((1,) * out.dim(), foreign)


@cache
def _tags(func: Any) -> set[str]:
    """Names of an operator's tags; those in place have none of their own."""
    packet = func.overloadpacket
    plain = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet) if func.namespace == "aten" else packet
    found = set(func.tags) or set().union(*(getattr(plain, overload).tags for overload in plain.overloads()))
    return {tag.name for tag in found}
