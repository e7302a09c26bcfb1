"""Operators of ONNX files that cost no products, and those that nothing counts, with the reason.

Names have their domain in front where it is not onnx's own.
"""

from __future__ import annotations

from collections.abc import Iterable

FREE_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress Concat
    ConcatFromSequence Constant ConstantOfShape Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu
    GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul
    Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize ReverseSequence RoiAlign RotaryEmbedding Round Scatter ScatterElements ScatterND Selu SequenceAt
    SequenceConstruct SequenceLength Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor
    com.microsoft.BiasGelu com.microsoft.DequantizeLinear com.microsoft.FastGelu com.microsoft.Gelu
    com.microsoft.NhwcMaxPool com.microsoft.QLinearAdd com.microsoft.QLinearAveragePool com.microsoft.QLinearConcat
    com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu com.microsoft.QLinearMul
    com.microsoft.QLinearReduceMean com.microsoft.QLinearSigmoid com.microsoft.QLinearSoftmax
    com.microsoft.QLinearWhere com.microsoft.QuantizeLinear com.microsoft.QuickGelu
    com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization
"""
"""Operators whose work is a constant, or a window, for each element: zero MACs, as in a network."""
FREE = frozenset(FREE_OPERATORS.split())

REFUSED = {
    "graphs of its own, run as often as the data say; onnxsim removes it where they always say the same": (
        *("If", "Loop", "Scan", "SequenceMap"),
    ),
    "a transform, no product of matrices": ("DFT", "STFT", "Det", "com.microsoft.Inverse"),
    "an interpolation between pixels for each weight, too": ("DeformConv",),
    "several weights in one number, so that parameters and zeros cannot be counted": (
        *("com.microsoft.MatMulNBits", "com.microsoft.MatMulBnb4", "com.microsoft.MatMulFpQ4"),
    ),
    "for texts: how many keys it reads is in its data, not in a shape": (
        *("com.microsoft.GroupQueryAttention", "com.microsoft.DecoderMaskedMultiHeadAttention"),
        *("com.microsoft.PagedAttention", "com.microsoft.SparseAttention", "com.microsoft.LongformerAttention"),
    ),
    "made by onnxruntime for one processor, with padded weights; give the file before that": (
        *("com.microsoft.nchwc.Conv", "com.microsoft.nchwc.ReorderInput", "com.microsoft.nchwc.ReorderOutput"),
        *("com.microsoft.nchwc.MaxPool", "com.microsoft.nchwc.AveragePool", "com.microsoft.nchwc.GlobalAveragePool"),
        *("com.microsoft.nchwc.GlobalMaxPool", "com.microsoft.nchwc.Upsample"),
    ),
}
"""Why an operator is not counted -> operators. What is nowhere in this module and in ``onnx_macs`` has no rule."""


def without_rule(names: Iterable[str]) -> list[str]:
    """Names of operators that are not counted, those with one reason together with it."""
    left, said = set(names), []
    for why, refused in REFUSED.items():
        if found := sorted(left & {*refused}):
            said.append(f"{', '.join(found)} ({why})")
            left -= {*found}
    return [*said, *sorted(left)]
