"""Operators of ONNX files that cost no products, and those that nothing counts, with the reason.

Names have their domain in front where it is not onnx's own.
"""

from __future__ import annotations

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
    "runs graphs of its own, as often as the data say; onnxsim removes it where they always say the same": (
        *("If", "Loop", "Scan", "SequenceMap"),
    ),
    "is a transform, not a product of matrices": ("DFT", "STFT", "Det", "com.microsoft.Inverse"),
    "also interpolates between pixels for each weight": ("DeformConv",),
    "keeps several weights in one number, so that parameters and zeros cannot be counted": (
        *("com.microsoft.MatMulNBits", "com.microsoft.MatMulBnb4", "com.microsoft.MatMulFpQ4"),
    ),
    "is made for texts: how many keys it reads is in its data, not in a shape": (
        *("com.microsoft.GroupQueryAttention", "com.microsoft.DecoderMaskedMultiHeadAttention"),
        *("com.microsoft.PagedAttention", "com.microsoft.SparseAttention", "com.microsoft.LongformerAttention"),
    ),
    "is what onnxruntime makes for one processor, with padded weights; give the file before that": (
        *("com.microsoft.nchwc.Conv", "com.microsoft.nchwc.ReorderInput", "com.microsoft.nchwc.ReorderOutput"),
    ),
}
"""Why an operator is not counted -> operators. What is nowhere in this module has no rule."""
WHY = {name: why for why, names in REFUSED.items() for name in names}
