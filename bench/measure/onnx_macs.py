"""MACs of an ONNX file: the products of its convolutions and matrices, as fvcore counts those of the network.

The shapes are those of one call in onnxruntime with every tensor kept. So no product is without a shape, whichever
operator is before it, and constants that the file computes (masked or quantized weights) have their values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.errors import RunFailed
from bench.measure import einsum
from bench.measure.onnx_file import OnnxFile, attributes
from bench.measure.onnx_operators import FREE, without_rule
from bench.measure.products import NetworkCount, Product


class Places(NamedTuple):
    """Which inputs of an operator are its factors, the zero points of these, and a bias."""

    left: int = 0
    right: int = 1
    left_zero: int | None = None
    right_zero: int | None = None
    bias: int | None = None


FLOAT, BIASED = Places(), Places(bias=2)
INTEGER, LINEAR = Places(left_zero=2, right_zero=3), Places(0, 3, 2, 5)
CONVOLUTIONS = {
    "Conv": BIASED,
    "ConvInteger": INTEGER,
    "QLinearConv": LINEAR._replace(bias=8),
    "com.microsoft.FusedConv": BIASED,
    "com.microsoft.QLinearConv": LINEAR._replace(bias=8),
}
MATRICES = {
    "MatMul": FLOAT,
    "MatMulInteger": INTEGER,
    "QLinearMatMul": LINEAR,
    "Gemm": BIASED,
    "com.microsoft.DynamicQuantizeMatMul": Places(right_zero=3, bias=4),
    "com.microsoft.FusedGemm": BIASED,
    "com.microsoft.FusedMatMul": FLOAT,
    "com.microsoft.MatMulIntegerToFloat": Places(0, 1, 4, 5, 6),
    "com.microsoft.QGemm": LINEAR._replace(bias=6),
}


@dataclass(frozen=True)
class Call:
    """One node with the tensors that it had in one call.

    Attributes:
        file, name: of the file and the node, for messages.
        operator: with its domain.
        inputs, output: tensors; None for an input that is left out.
        varying: whether an input depends on the image.
        settings: attributes.
        batch: images of the call.
    """

    file: str
    name: str
    operator: str
    inputs: Sequence[np.ndarray | None]
    varying: Sequence[bool]
    output: np.ndarray
    settings: Mapping[str, Any]
    batch: int

    def optional(self, place: int | None) -> np.ndarray | None:
        """The input at a place, where the operator has one and it is given."""
        return None if place is None or place >= len(self.inputs) else self.inputs[place]

    def given(self, place: int) -> np.ndarray:
        """The input at a place."""
        found = self.optional(place)
        if found is None:
            raise self.uncounted(f"it has no input {place}")
        return found

    def uncounted(self, why: str) -> RunFailed:
        """What to raise where the operator has no exact count."""
        return _uncounted(self.file, [f"{self.operator} {self.name} ({why})"])

    def product(
        self, kind: str, macs: int, images: np.ndarray, bias: bool, zero: np.ndarray | None, outputs: int | None = None
    ) -> Product:
        """What the node costs for one image of the call; ``outputs`` are elements, where its output is another."""
        if macs % self.batch:
            raise RunFailed(f"{self.name}: {macs:,} MACs for {self.batch} images are not a whole number for one")
        made, read = (outputs or self.output.size) // self.batch, images.size // self.batch
        return Product(self.name, kind, macs // self.batch, made, read, bias, zero)


def count(file: OnnxFile, shape: tuple[int, ...]) -> NetworkCount:
    """Count a file for one image of ``shape``.

    Raises RunFailed where the file does not run, and where an operator has no rule: it would be counted as zero.
    """
    nodes = file.model.graph.node
    varying = {file.input}  # tensors that depend on the image
    for node in nodes:
        if _depends(node, varying):
            varying |= {*node.output} - {""}
    counted = [node for node in nodes if _depends(node, varying)]  # others are computed once, when the file is loaded
    if unknown := {_label(node) for node in counted} - FREE - RULES.keys():
        raise _uncounted(file.name, without_rule(unknown))
    values = file.values((name for node in nodes for name in (*node.input, *node.output)), shape)
    batch, products, others = file.batch or 1, list[Product](), Counter[str]()
    for node in counted:
        if rule := RULES.get(_label(node)):
            products += rule(_call(file.name, node, values, varying, batch))
            continue
        pooled = "Pool" in node.op_type or node.op_type == "ReduceMean"  # each of its inputs counts once
        tensor = values[node.input[0] if pooled else next(filter(None, node.output))]
        others[node.op_type] += getattr(tensor, "size", 0) // batch  # a list of tensors has none
    return NetworkCount(tuple(products), dict(others))


def _depends(node: Any, varying: set[str]) -> bool:
    """Whether a node depends on the image; the tensors that its own graphs read are not among its inputs."""
    return bool(varying & set(node.input)) or any(attribute.HasField("g") for attribute in node.attribute)


def _uncounted(file: str, operators: Iterable[str]) -> RunFailed:
    return RunFailed(
        f"{file}: no rule counts {'; '.join(operators)}: the total would be wrong. docs/score.md lists what is counted"
    )


def _label(node: Any) -> str:
    """An operator with its domain, where that is not onnx's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _call(file: str, node: Any, values: Mapping[str, np.ndarray], varying: set[str], batch: int) -> Call:
    made = next(filter(None, node.output))
    inputs = [values[name] if name else None for name in node.input]
    varies = [name in varying for name in node.input]
    return Call(file, node.name or made, _label(node), inputs, varies, values[made], attributes(node), batch)


def _rows(weights: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """Which weights ``[channels, N]`` are zero."""
    zero: np.ndarray = weights == (0 if zero_point is None else zero_point.reshape(-1, 1))
    return zero


def _convolution(places: Places, call: Call) -> Iterator[Product]:
    """Elements of the output times weights of one filter."""
    x, weights, point = call.given(places.left), call.given(places.right), call.optional(places.right_zero)
    zero = None if call.varying[places.right] else _rows(weights.reshape(len(weights), -1), point)
    macs, biased = call.output.size * math.prod(weights.shape[1:]), call.optional(places.bias) is not None
    yield call.product("conv", macs, x, biased, zero)


def _transposed_convolution(call: Call) -> Iterator[Product]:
    """Elements of the input times weights of its channel."""
    x, weights = call.given(0), call.given(1)
    rows = weights.reshape(call.settings.get("group", 1), -1, *weights.shape[1:]).swapaxes(1, 2)
    zero = None if call.varying[1] else _rows(rows.reshape(rows.shape[0] * rows.shape[1], -1), None)
    macs = len(x) * math.prod(x.shape[2:]) * weights.size
    yield call.product("conv", macs, x, call.optional(2) is not None, zero)


def _matrices(places: Places, call: Call) -> Iterator[Product]:
    """Elements of the output times columns of the left factor."""
    left, right = call.given(places.left), call.given(places.right)
    if call.settings.get("transBatchA"):
        left = np.moveaxis(left, 0, -2)
    if call.settings.get("transBatchB"):
        right = np.moveaxis(right, 0, -2)
    if call.settings.get("transA"):
        left = left.swapaxes(-1, -2)
    if not call.settings.get("transB") and right.ndim > 1:
        right = right.swapaxes(-1, -2)
    depth, zero = left.shape[-1], None
    for weights, place, point in ((right, places.right, places.right_zero), (left, places.left, places.left_zero)):
        if not call.varying[place]:
            zero = _rows(weights.reshape(-1, depth), call.optional(point))
            break
    kind, biased = "matmul" if zero is None else "linear", call.optional(places.bias) is not None
    yield call.product(kind, call.output.size * depth, left, biased, zero)


def _einsum(call: Call) -> Iterator[Product]:
    """Of two tensors the product of the ranges of all indices; one that only one of them has, and not the result, is
    summed before. Of one tensor 0; of more refused, since each runtime multiplies them in its own order.
    """
    if len(call.inputs) > 2:
        raise call.uncounted("more than two tensors, multiplied in an order that each runtime chooses")
    if len(call.inputs) < 2:
        return  # a sum, or a transposition
    equation, tensors = call.settings["equation"].decode(), [call.given(0), call.given(1)]
    macs, zero = einsum.macs_of_two(equation, [tensor.shape for tensor in tensors]), None
    terms, kept = einsum.parsed(equation, [tensor.ndim for tensor in tensors])
    for place in (1, 0):
        if not call.varying[place]:
            axes = sorted(range(tensors[place].ndim), key=lambda axis: terms[place][axis] not in kept)
            weights = tensors[place].transpose(axes)
            channels = math.prod(size for size, axis in zip(weights.shape, axes) if terms[place][axis] in kept)
            zero = _rows(weights.reshape(channels, -1), None)
            break
    yield call.product("matmul" if zero is None else "linear", macs, tensors[0], False, zero)


def _attention(call: Call) -> Iterator[Product]:
    """``QK^T`` and ``AV``: heads x queries x keys x (D + Dv); a causal mask halves nothing."""
    if call.optional(6) is not None:
        raise call.uncounted("how many keys it reads is in its data")
    queries, keys, values = (call.given(place) for place in range(3))
    heads, of_values = (call.settings.get(f"{name}_num_heads", 1) for name in ("q", "kv"))
    past = call.optional(4)
    if queries.ndim == 4:
        met, rows, depth = keys.shape[2], math.prod(queries.shape[:3]), queries.shape[3] + values.shape[3]
    else:
        met, rows = keys.shape[1], heads * math.prod(queries.shape[:2])
        depth = queries.shape[2] // heads + values.shape[2] // of_values
    met += 0 if past is None else past.shape[2]
    yield call.product("matmul", rows * met * depth, queries, False, None)


def _multi_head_attention(call: Call) -> Iterator[Product]:
    """``QK^T`` and ``AV``, as above; refused where it reads keys of earlier calls."""
    if call.optional(6) is not None:
        raise call.uncounted("it reads keys of earlier calls")
    queries, keys = call.given(0), call.optional(1)
    packed = queries.ndim == 5
    met = queries.shape[1] if packed or keys is None else keys.shape[2 if keys.ndim == 4 else 1]
    width = queries.shape[2] * queries.shape[4] if packed else queries.shape[2]
    depth = width + call.output.shape[-1]
    yield call.product("matmul", math.prod(queries.shape[:2]) * met * depth, queries, False, None)


def _projected_attention(zero_point: int | None, past: int, call: Call) -> Iterator[Product]:
    """The matrix that makes queries, keys and values, then as above; refused where it reads keys of earlier calls."""
    if call.optional(past) is not None:
        raise call.uncounted("it reads keys of earlier calls")
    x, weights = call.given(0), call.given(1)
    rows, length = math.prod(x.shape[:2]), x.shape[1]
    zero = None if call.varying[1] else _rows(weights.T, call.optional(zero_point))
    yield call.product("linear", rows * weights.size, x, call.optional(2) is not None, zero, rows * weights.shape[1])
    width = [*call.settings.get("qkv_hidden_sizes", ()), weights.shape[1] // 3][0]
    yield call.product("matmul", rows * length * (width + call.output.shape[-1]), x, False, None)


def _recurrent(call: Call) -> Iterator[Product]:
    """Each weight once a step; refused where sequences end at different steps."""
    x, lengths = call.given(0), call.optional(4)
    if lengths is not None and (lengths != x.shape[call.settings.get("layout", 0)]).any():
        raise call.uncounted("some sequences end earlier than others")
    for place in (1, 2):
        weights = call.given(place)
        zero = None if call.varying[place] else _rows(weights.reshape(-1, weights.shape[-1]), None)
        steps, biased = math.prod(x.shape[:2]), place == 1 and call.optional(3) is not None
        yield call.product("linear", steps * weights.size, x, biased, zero, steps * weights.shape[0] * weights.shape[1])


RULES: dict[str, Callable[[Call], Iterator[Product]]] = {
    **{name: partial(_convolution, places) for name, places in CONVOLUTIONS.items()},
    "ConvTranspose": _transposed_convolution,
    **{name: partial(_matrices, places) for name, places in MATRICES.items()},
    "Einsum": _einsum,
    "Attention": _attention,
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.Attention": partial(_projected_attention, None, 4),
    "com.microsoft.QAttention": partial(_projected_attention, 7, 8),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
"""Operators that are counted -> how."""
