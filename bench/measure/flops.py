"""MACs counted by fvcore and checked by a second counter. The only module that imports fvcore."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import ARCHITECTURE, RunFailed
from bench.measure.einsum import macs_of_two
from bench.measure.uncounted_operators import Hidden, is_cheap_by_name
from bench.models.shared_parameters import copied, plain

with warnings.catch_warnings():  # fvcore uses torch.jit.script, which torch has deprecated
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import einsum_flop_jit, get_shape

COUNTED_BY_BOTH = (
    *("conv", "linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum", "tensordot", "inner"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    "scaled_dot_product_attention",
)
"""fvcore operators that torch.utils.flop_counter counts too."""

UNCOUNTED = 1e-3
"""Largest share of the total that the operators nobody counts may have, by an upper bound of their work."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass at batch 1 in eval mode, as fvcore counts them.

    Attributes:
        total: conv, linear, matmul and attention one per multiply-add; batch norm two, layer norm five per element;
            pooling one per input.
        by_op: the total split by operator.
        by_module: module name -> operator -> MACs, inner modules included in outer ones.
        unsupported: operators fvcore has no rule for (counted as zero) and how often they occur.
    """

    total: int
    by_op: dict[str, int]
    by_module: dict[str, dict[str, int]]
    unsupported: dict[str, int]

    @property
    def products(self) -> int:
        """The part that multiplies matrices: convolution, linear, matmul, attention."""
        return sum(self.by_op.get(op, 0) for op in COUNTED_BY_BOTH)


def count(network: nn.Module, shape: tuple[int, ...]) -> Macs:
    """Count the MACs of ``network`` on one input of ``shape`` (without the batch axis).

    The network itself is not touched. fvcore counts a trace; then the network runs once more without tracing,
    which finds one that takes another path when traced. Raises RunFailed when convolution, linear, matmul and
    attention MACs of the two passes differ, or when operators that neither counter knows and that are not cheap
    could be more than ``UNCOUNTED`` of the total.
    """
    network, x = _counted_copy(network), torch.zeros(1, *shape)
    counted = _analysed(network, x)
    second, hidden = untraced(network, x)
    bound = sum(hidden.values())
    if bound > UNCOUNTED * counted.total:
        raise RunFailed(
            f"{', '.join(sorted(hidden))} counted as zero MACs, up to {bound:,} in addition to {counted.total:,}: "
            "the total would be wrong; build it from operators that are counted (docs/measuring.md)",
            blame=ARCHITECTURE,
        )
    if counted.products != second:
        raise RunFailed(
            f"two counters disagree: fvcore {counted.products:,} MACs, torch.utils.flop_counter {second:,}; "
            + _difference(network, counted, x),
            blame=ARCHITECTURE,
        )
    return counted


def _counted_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode, as it is counted. It is frozen: torch's counter fails on a view of a parameter that
    requires a gradient (an expanded class token)."""
    counted = plain(copied(network).float().cpu()).requires_grad_(False)
    if hasattr(type(counted), "every_output"):  # a network of several outputs, see bench.models.logits
        vars(counted)["every_output"] = True
    return counted


def _difference(network: nn.Module, counted: Macs, x: Tensor) -> str:
    """Possible causes of a disagreement: operators, else the innermost modules whose counts differ."""
    unknown = [op for op in counted.unsupported if not is_cheap_by_name(op)]
    if unknown:
        return f"fvcore has no rule for: {', '.join(unknown)}"
    second, _ = _second_pass(network, x)
    differing = {}
    for name, module in network.named_modules():
        ours = sum(n for op, n in counted.by_module.get(name, {}).items() if op in COUNTED_BY_BOTH)
        theirs = second[".".join(filter(None, (type(network).__name__, name)))]
        if ours != theirs:
            differing[name] = f"{name or 'the network itself'} ({type(module).__name__}): {ours:,} and {theirs:,}"
    innermost = [
        why for name, why in differing.items() if not any(o and o.startswith(name and f"{name}.") for o in differing)
    ]
    return f"they differ in {'; '.join(innermost)}" if innermost else "no module explains it"


def traced(network: nn.Module, shape: tuple[int, ...]) -> Macs:
    """What fvcore counts, without the checks of :func:`count`: for the slices of a network that was counted."""
    return _analysed(_counted_copy(network), torch.zeros(1, *shape))


def _analysed(network: nn.Module, x: Tensor) -> Macs:
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(network, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).set_op_handle(**HANDLES)
    with torch.no_grad(), no_fast_path():
        found = analysis.by_module_and_operator()
    by_module = {name: {op: int(n) for op, n in ops.items()} for name, ops in found.items()}
    unsupported = {op: int(n) for op, n in sorted(analysis.unsupported_ops().items())}
    by_op = dict(sorted(by_module[""].items()))
    return Macs(sum(by_op.values()), by_op, by_module, unsupported)


def untraced(network: nn.Module, x: Tensor) -> tuple[int, dict[str, int]]:
    """One forward pass without tracing, independent of fvcore.

    Returns:
        Convolution, linear, matmul and attention MACs by torch.utils.flop_counter; and for the primitive operators
        that it does not count and that are not cheap, an upper bound of their multiply-adds.
    """
    by_module, hidden = _second_pass(network, x)
    return by_module["Global"], hidden


def _second_pass(network: nn.Module, x: Tensor) -> tuple[Counter[str], dict[str, int]]:
    """As :func:`untraced`, the MACs by module: ``Global``, and below it names that begin with the network's class."""
    counter = FlopCounterMode(display=False)
    hidden = Hidden(counter.flop_registry)
    network, x = unfused(network, x)
    # The math backend makes attention of matrix products; not every version of torch counts the CPU's fused kernel.
    with torch.no_grad(), no_fast_path(), sdpa_kernel(SDPBackend.MATH), counter, hidden:
        network(x)
    by_module = Counter({name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()})
    return by_module, dict(hidden.bounds)


def unfused(network: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Both so that the products of recurrent layers are seen: for double precision the CPU has no fused kernel."""
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        return copied(network).double(), x.double()
    return network, x


def products(network: nn.Module, images: Iterable[Tensor]) -> list[int]:
    """Convolution, linear, matmul and attention MACs of one image: the first of each of ``images [B, C, H, W]``."""
    network = _counted_copy(network)
    return [untraced(network, x[:1])[0] for x in images]


def parameters(network: nn.Module) -> int:
    """Number of parameters, buffers not included."""
    return sum(p.numel() for p in network.parameters())


@contextmanager
def no_fast_path() -> Iterator[None]:
    """nn.MultiheadAttention and nn.TransformerEncoder without fused kernels, which hide operators from counters."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _product(inputs: list[Any], outputs: list[Any], left: int = 0) -> int:
    """A product of (stacks of) matrices: elements of the result times columns of the left factor."""
    return math.prod(get_shape(outputs[0])) * get_shape(inputs[left])[-1]


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """``QK^T`` and ``AV`` of queries ``[..., Tq, D]``, keys ``[..., Tk, D]``, values ``[..., Tk, Dv]``; softmax 0."""
    query, key, value = (get_shape(v) for v in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    """Exact for two operands, where fvcore rounds to four digits; else fvcore's own rule."""
    shapes = [get_shape(v) for v in inputs[1].node().inputs()]
    if len(shapes) == 2:
        return macs_of_two(inputs[0].toIValue(), shapes)
    return int(einsum_flop_jit(inputs, outputs))


def _contraction(inputs: list[Any], outputs: list[Any]) -> int:
    """A product of ``A K`` and ``K B`` elements without a common stack: ``A B`` elements, ``A K B`` MACs."""
    return math.isqrt(math.prod(math.prod(get_shape(v)) for v in (*inputs[:2], outputs[0])))


def _convolution_mode(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution whose padding is a word: elements of the output times what each of them sums."""
    return Counter({"conv": math.prod(get_shape(outputs[0])) * math.prod(get_shape(inputs[1])[1:])})


def _recurrent(inputs: list[Any], outputs: list[Any]) -> int:
    """A recurrent layer: every step reads each of its matrices once (4 gates of an LSTM, 3 of a GRU)."""
    lists = [list(v.node().inputs()) for v in inputs if v.node().kind() == "prim::ListConstruct"]
    matrices = [shape for v in lists[-1] if len(shape := get_shape(v)) == 2]
    return math.prod(get_shape(inputs[0])[:-1]) * sum(map(math.prod, matrices))


HANDLES = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": lambda inputs, outputs: _product(inputs, outputs, left=1),
    "aten::matmul": _product,  # fvcore's own forgets the right factor's stack where that is the larger one
    "aten::einsum": _einsum,
    "aten::tensordot": _contraction,
    "aten::inner": _contraction,
    "aten::_convolution_mode": _convolution_mode,
    **{f"aten::{kind}": _recurrent for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
"""Operators that fvcore has no rule for, or one that is not exact."""
