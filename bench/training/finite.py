"""Whether a network is still finite."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bench.models.torch_state import NORMS


def not_finite(network: nn.Module) -> str | None:
    """Name of a trained parameter, or of a norm's statistic, that is not finite; None where all are.

    Other buffers may be infinite, such as masks of attention.
    """
    watched: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for name, module in network.named_modules():
        if isinstance(module, NORMS):
            watched |= {f"{name}.{key}": value for key, value in module.named_buffers(recurse=False)}
    return next((name for name, value in watched.items() if not bool(value.isfinite().all())), None)


def diverged(network: nn.Module, loss: float = 0.0) -> str | None:
    """Which of the loss, the weights and the norms' statistics is not finite, as words; None where all are."""
    name = not_finite(network) if math.isfinite(loss) else f"the loss ({loss})"
    return f"{name} is not finite" if name else None
