"""Batch norm statistics, estimated again once units have been removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from bench.data.loading import TrainingData
from bench.models.torch_state import NORMS
from bench.spec.digest import derive_seed
from bench.spec.recipe import Recipe
from bench.training.masked_model import MaskedModel


@torch.no_grad()
def reestimate(network: nn.Module, batches: Iterable[Tensor], autocast: Callable[[], AbstractContextManager]) -> None:
    """Set the statistics of all batch norms to the plain mean over ``batches`` of images; training mode stays on.

    Each forward pass is made within ``autocast()``.
    """
    norms = [m for m in network.modules() if isinstance(m, NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    for x in batches:
        with autocast():
            network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def recalibrate(
    model: MaskedModel, data: TrainingData, recipe: Recipe, seed: int, batches: int, charged: bool = False
) -> None:
    """Re-estimate the statistics of ``model`` over so many training batches, in its precision.

    These forward passes are the harness's and not counted for the method, unless they are ``charged`` to it.
    """
    generator = torch.Generator(model.device).manual_seed(derive_seed(seed, "recalibrate"))
    images = data.train.batches(recipe.batch_size, generator, drop_last=True)

    @contextmanager
    def forward() -> Iterator[None]:
        with model.autocast(), nullcontext() if charged else model.ledger.harness(model.network):
            yield

    if batches:
        reestimate(model.network, (x for x, _ in islice(images, batches)), forward)
