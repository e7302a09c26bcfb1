"""Networks whose output is more than logits: a function picks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.errors import UsageError

PICK = "; an attribute 'logits' of the function that builds it picks them"
"""What helps where a network gives more than logits."""


def with_logits(network: nn.Module, pick: Callable[[Any], Any] | None) -> nn.Module:
    """``network`` itself, whose output becomes ``pick(output)``, in eval and in training mode; None changes nothing.

    Only its class is another one, of the same name. Names of layers, weights and other attributes stay.

    Args:
        network: gives a tuple, a dictionary or the like.
        pick: maps that to logits ``[B, classes]``. Other outputs are ignored.

    Raises:
        UsageError: in a forward pass, where ``pick`` fails or gives something else than a tensor.
    """
    if pick is None:
        return network
    kind = type(network)
    name = getattr(pick, "__name__", type(pick).__name__)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.forward(self, *args, **kwargs)
        if self.every_output:
            return tuple(t for t in tree_leaves(out) if isinstance(t, Tensor))
        try:
            logits = pick(out)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"logits: '{name}' fails on the network's {type(out).__name__} ({why})") from error
        if not isinstance(logits, Tensor):
            raise UsageError(f"logits: '{name}' gives a {type(logits).__name__}, not a tensor")
        return logits

    # MACs are those of all outputs: what makes the others runs, too.
    attributes = {"forward": forward, "every_output": False, "__module__": kind.__module__}
    network.__class__ = type(kind.__name__, (kind,), attributes)
    return network
