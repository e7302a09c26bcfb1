"""MACs by fvcore, and the checks that make the number trustworthy. The only module that imports fvcore."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import RunFailed

with warnings.catch_warnings():  # fvcore uses torch.jit.script, which torch has deprecated
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis

COUNTED_BY_BOTH = ("conv", "linear", "matmul", "addmm", "bmm", "einsum")
"""fvcore operators that torch.utils.flop_counter counts too."""

MULTIPLYING = ("attention", "mm", "matmul", "einsum", "conv", "fft", "lstm", "gru", "rnn", "bilinear")
"""Parts of operator names that multiply: counted as zero they would make the total a lie."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass at batch 1 in eval mode, as fvcore counts them.

    Attributes:
        total: conv, linear and matmul one per multiply-add; batch norm two per element; pooling one per input.
        by_op: the total split by operator.
        by_module: module name -> operator -> MACs, inner modules included in outer ones.
        unsupported: operators fvcore has no rule for (counted as zero) and how often they occur.
    """

    total: int
    by_op: dict[str, int]
    by_module: dict[str, dict[str, int]]
    unsupported: dict[str, int]


def count(network: nn.Module, shape: tuple[int, ...]) -> Macs:
    """Count the MACs of ``network`` on one input of ``shape`` (without the batch axis).

    The network itself is not touched. Raises RunFailed when an operator that multiplies is unsupported, or
    when convolution, linear and matmul MACs differ from torch.utils.flop_counter (which counts two per MAC).
    """
    network = copy.deepcopy(network).float().cpu().eval()
    x = torch.zeros(1, *shape)
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(network, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_module = {name: {op: int(n) for op, n in ops.items()} for name, ops in analysis.by_module_and_operator().items()}
    unsupported = {op: int(n) for op, n in sorted(analysis.unsupported_ops().items())}
    hidden = [op for op in unsupported if any(part in op for part in MULTIPLYING)]
    if hidden:
        raise RunFailed(f"fvcore counts {', '.join(hidden)} as zero MACs: the total would be wrong")
    by_op = dict(sorted(by_module[""].items()))
    counted = sum(by_op.get(op, 0) for op in COUNTED_BY_BOTH)
    second = torch_macs(network, x)
    if counted != second:
        raise RunFailed(f"two counters disagree: fvcore {counted:,} MACs, torch.utils.flop_counter {second:,}")
    return Macs(sum(by_op.values()), by_op, by_module, unsupported)


def torch_macs(network: nn.Module, x: torch.Tensor) -> int:
    """Convolution, linear and matmul MACs by torch.utils.flop_counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops()) // 2


def parameters(network: nn.Module) -> int:
    """Number of parameters, buffers not included."""
    return sum(p.numel() for p in network.parameters())
