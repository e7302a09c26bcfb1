"""Parameters of masked units, which training leaves as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.pruning.sites import Sites


class Held:
    """What makes the masked units, and the weights that read them, as they were: a step would decay both.

    Args:
        sites: of the network.
        masks: site -> bool ``[n_units]``, on the network's device; False is masked.
    """

    def __init__(self, sites: Sites, masks: Mapping[str, Tensor]) -> None:
        self._kept: list[tuple[Tensor, tuple[Any, ...], Tensor]] = []
        for name, mask in masks.items():
            for parameter, at in sites[name].held(mask):
                self._keep(parameter, at)

    def __bool__(self) -> bool:
        return bool(self._kept)

    @torch.no_grad()
    def restore(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Put everything back; its momentum becomes zero."""
        for parameter, at, saved in self._kept:
            parameter[at] = saved
            for moment in optimizer.state.get(parameter, {}).values() if optimizer else ():
                if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                    moment[at] = 0

    def _keep(self, parameter: Tensor, at: tuple[Any, ...]) -> None:
        self._kept.append((parameter, at, parameter.detach()[at].clone()))
