"""MACs of an ONNX file: the products of its convolutions and matrices, as fvcore counts those of the network.

The shapes are those of one call in onnxruntime with every tensor kept. So no product is without a shape, whichever
operator is before it, and constants that the file computes (masked or quantized weights) have their values.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from bench.errors import RunFailed
from bench.measure.onnx_file import OnnxFile
from bench.measure.products import NetworkCount, Product

PRODUCTS = {
    "Conv": (0, 1, None, 2),
    "ConvInteger": (0, 1, 3, None),
    "QLinearConv": (0, 3, 5, 8),
    "ConvTranspose": (0, 1, None, 2),
    "Gemm": (0, 1, None, 2),
    "com.microsoft.QGemm": (0, 3, 5, 6),
    "MatMul": (0, 1, None, None),
    "MatMulInteger": (0, 1, 3, None),
    "QLinearMatMul": (0, 3, 5, None),
}
"""Operators that are counted -> which of their inputs are the images, the weights, their zero point, the bias."""
KINDS = {"Conv": "conv", "Gemm": "linear", "MatMul": "matmul"}
"""A word in an operator's name -> the kind of product, as fvcore has it; a matrix of weights makes it ``linear``."""
CHEAP_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat Constant
    ConstantOfShape Cos Cosh DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand
    EyeLike Flatten Floor Gather GatherElements GatherND Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf
    IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
    Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu
    Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor com.microsoft.QLinearAdd com.microsoft.QLinearAveragePool
    com.microsoft.QLinearConcat com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu
    com.microsoft.QLinearMul com.microsoft.QLinearSigmoid com.microsoft.QLinearSoftmax com.microsoft.DequantizeLinear
    com.microsoft.QuantizeLinear com.microsoft.Gelu com.microsoft.FastGelu com.microsoft.QuickGelu
"""
"""Operators whose work is a constant, or a pooling window, for each element: zero MACs, as in a network."""
CHEAP = frozenset(CHEAP_OPERATORS.split())


def count(file: OnnxFile, shape: tuple[int, ...]) -> NetworkCount:
    """Count a file for one image of ``shape``.

    Raises RunFailed where the file does not run, and where an operator has no rule: it would be counted as zero.
    """
    nodes = file.model.graph.node
    unknown = sorted({_label(node) for node in nodes} - CHEAP - PRODUCTS.keys())  # such as If, with graphs of its own
    if unknown:
        raise RunFailed(
            f"{file.name}: no rule counts {', '.join(unknown)}, the total would be wrong; export it with operators "
            f"that are counted: {', '.join(PRODUCTS)}"
        )
    values = file.values((name for node in nodes for name in (*node.input, *node.output)), shape)
    varying = {file.input}  # tensors that depend on the image
    for node in nodes:
        if varying & set(node.input):
            varying |= {*node.output} - {""}
    batch, products, others = file.batch or 1, [], Counter[str]()
    for node in nodes:
        if not varying & set(node.input):
            continue  # computed once, when the file is loaded
        if _label(node) in PRODUCTS:
            products.append(_product(node, values, varying, batch))
        else:
            pooled = "Pool" in node.op_type or node.op_type == "ReduceMean"  # each of its inputs counts once
            size = values[node.input[0] if pooled else node.output[0]].size
            others[node.op_type] += size // batch
    return NetworkCount(tuple(products), dict(others))


def _label(node: Any) -> str:
    """An operator with its domain, where that is not onnx's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _product(node: Any, values: dict[str, np.ndarray], varying: set[str], batch: int) -> Product:
    def given(place: int | None) -> str:
        return node.input[place] if place is not None and place < len(node.input) else ""

    left, right, zero_point, bias = map(given, PRODUCTS[_label(node)])
    a, b, out = (values[name] for name in (left, right, node.output[0]))
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    kind = next(kind for word, kind in KINDS.items() if word in node.op_type)
    if node.op_type == "ConvTranspose":  # an input is multiplied by all weights of its channel
        macs = len(a) * math.prod(a.shape[2:]) * b.size
        weight = b.reshape(settings.get("group", 1), -1, *b.shape[1:]).swapaxes(1, 2)
        weight = weight.reshape(-1, *weight.shape[2:])
    elif kind == "conv":
        macs, weight = out.size * math.prod(b.shape[1:]), b
    else:
        macs = out.size * (a.shape[0] if settings.get("transA") else a.shape[-1])
        weight = b if settings.get("transB") or b.ndim < 2 else b.swapaxes(-1, -2)
        kind = kind if right in varying else "linear"
    name = node.name or node.output[0]
    if macs % batch:
        raise RunFailed(f"{name}: {macs:,} MACs for {batch} images are not a whole number for one")
    nothing = values[zero_point].reshape(-1, 1) if zero_point else 0
    zero = None if right in varying else weight.reshape(len(weight), -1) == nothing
    return Product(name, kind, macs // batch, out.size // batch, a.size // batch, bool(bias), zero)
