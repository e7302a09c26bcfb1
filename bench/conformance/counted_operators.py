"""Multiply-adds of what a method computes itself, whatever it calls for that: counted by torch's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.training.ledger import BACKWARD

NORMS = {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}


class Multiplications(TorchDispatchMode):
    """Within the block, adds up what forwards cost: convolutions, linear layers with a bias, batch norms.

    Three times where a gradient is recorded, as the harness charges it; what a backward pass computes is not counted.
    Products of other matrices are left out: a method may compute what it likes of weights and activations.

    Args:
        harness: whether a pass is the harness's own and is not counted.

    Attributes:
        macs: so far.
    """

    def __init__(self, harness: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.macs, self._harness = 0, harness

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        macs = of_operator(func.overloadpacket.__name__, args, out)
        if macs and torch._C._current_graph_task_id() == -1 and not self._harness():
            given = (t for t in tree_leaves(args) if isinstance(t, Tensor))
            gradient = torch.is_grad_enabled() and any(t.requires_grad for t in given)
            self.macs += macs * (BACKWARD if gradient else 1)
        return out


def of_operator(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Multiply-adds of one call, 0 for an operator that is not counted."""
    if name == "convolution":
        x, weight, transposed = args[0], args[1], args[6]
        return int((x if transposed else out).numel() * weight[0].numel())
    if name == "addmm":
        return int(out.numel() * args[1].shape[1])
    return 2 * int(args[0].numel()) if name in NORMS else 0
