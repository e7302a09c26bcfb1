"""Means over the images of batches: of a statistic of each site, and of the loss without each unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import METHOD, RunFailed
from bench.pruning.block_sites import watching
from bench.pruning.selection import split
from bench.pruning.sites import Site
from bench.training.masked_model import MaskedModel

Batches = Iterable[tuple[Tensor, Tensor]]
"""Normalised images ``[B, C, H, W]`` and labels ``[B]``."""


def mean(
    model: MaskedModel, batches: Batches, statistic: Callable[[Site, Tensor], Tensor], of: str
) -> dict[str, Tensor]:
    """Mean over images of ``statistic(site, values)``, site -> ``[n_units]``, in eval mode.

    Args:
        model: the network.
        batches: to look at; raises RunFailed where there are none.
        statistic: maps a site and its values in a batch to ``[n_units]``; those of one block to a number.
        of: ``activations`` or ``gate_gradients``, see :func:`activations_of` and :func:`gate_gradients`;
            ``block_io``: a block's input and output ``[2, B, ...]``. Sites of blocks have no activations.
    """
    lacks = {"activations": lambda site: bool(site.blocks), "block_io": lambda site: not site.blocks}
    sites = {name: site for name, site in model.sites.items() if of not in lacks or not lacks[of](site)}
    total = {name: torch.zeros(site.n_units, device=model.device) for name, site in sites.items()}
    seen = 0

    def add(name: str, unit: int, read: Tensor, out: Tensor) -> None:
        total[name][unit] += len(read) * statistic(sites[name], torch.stack([read, out]))

    for x, y in batches:
        if of == "block_io":
            with model.probe(), watching(model.network, model.sites, add):
                model.forward(x)
        else:
            values = gate_gradients(model, x, y) if of == "gate_gradients" else activations_of(model, x)
            for name, site in sites.items():
                total[name] += len(x) * statistic(site, values[name])
        seen += len(x)
    if not seen:
        raise RunFailed("a mean over no training batches: batches must be at least 1", blame=METHOD)
    return {name: value / seen for name, value in total.items()}


def activations_of(model: MaskedModel, x: Tensor) -> dict[str, Tensor]:
    """Activations of a batch in eval mode, site -> ``[B, n_units, positions...]``, at least one position."""
    with model.probe(), model.activations() as found:
        model.forward(x)
    return {name: a if a.dim() > 2 else a[..., None] for name, a in found.items()}


def gate_gradients(model: MaskedModel, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Derivative of each example's loss by a gate of 1 on each unit, in eval mode: site -> ``[B, n_units]``."""
    with model.probe(gradients=True):
        gates = {n: torch.ones(len(x), s.n_units, device=model.device) for n, s in model.sites.items()}
        for gate in gates.values():
            gate.requires_grad_(True)
        model.gate(gates)
        logits = model.forward(x).float()
        loss = len(x) * model.loss(logits, y) if model.loss else F.cross_entropy(logits, y, reduction="sum")
        return dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))


def leave_one_out(model: MaskedModel, batches: Batches) -> dict[str, Tensor]:
    """Mean loss of the network without each single unit, site -> ``[n_units]``; one forward pass a unit."""
    count, seen = sum(model.sites.widths.values()), 0
    candidates = split(~torch.eye(count, dtype=torch.bool, device=model.device), model.sites.widths)
    loss = torch.zeros(count, device=model.device)
    for x, y in batches:
        logits = model.evaluate(candidates, x)
        if model.loss:
            loss += len(x) * torch.stack([model.loss(of_one, y).detach() for of_one in logits])
        else:
            loss += F.cross_entropy(logits.movedim(0, 2), y[:, None].expand(-1, count), reduction="none").sum(dim=0)
        seen += len(x)
    return split(loss / seen, model.sites.widths)
