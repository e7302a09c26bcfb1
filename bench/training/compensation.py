"""Compensation of what a prune removes: where it works, and when batch norm is estimated again."""

from __future__ import annotations

from bench.errors import Unsupported
from bench.training.context import Context
from bench.training.method import Method


def require_layers(method: Method, ctx: Context) -> None:
    """Raise Unsupported where a compensation cannot work on the layers of ``ctx``, or is undone by another part."""
    moments = next((part.name for part in method.members if part.compensation == "moments"), None)
    if moments is None:
        return
    for layer in ctx.readers.values():
        if not layer.shifts:
            raise Unsupported(
                f"{moments} does not work on site {layer.reads[0]}: {layer.name} reads it and has no bias and no batch "
                "norm directly behind it"
            )
    estimates = next((part.name for part in method.members if part.reestimates is not None), None)
    if estimates and all(layer.follower for layer in ctx.readers.values()):
        raise Unsupported(
            f"{moments} and {estimates}: a batch norm follows every layer that reads a site, and estimating its "
            f"statistics again undoes what {moments} does: leave one of them out"
        )


def batches_to_estimate(method: Method, batches: int, trains: bool) -> tuple[int, bool]:
    """Over how many batches norms are estimated again after the slice, and whether a part of the method asks for it.

    Args:
        method: of the run.
        batches: what the recipe says.
        trains: whether the run trains beyond the dense baseline.
    """
    if method.reestimates is not None:
        return method.reestimates, True
    return 0 if method.compensation or not trains else batches, False
