"""A method's own numbers for every unit, which follow the network when units are cut out of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.errors import METHOD, RunFailed

Numbers = dict[str, Tensor]
"""Site -> ``[n_units]``."""


class PerUnit(dict[str, Numbers]):
    """Name -> numbers of every unit. The inner dictionaries stay the same objects, so that a method can hold one.

    Attributes:
        trainable: names of those that get a gradient in each step, and no step of the optimizer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trainable: set[str] = set()

    def add(
        self,
        name: str,
        widths: Mapping[str, int],
        value: float | Mapping[str, Tensor],
        device: torch.device,
        trainable: bool = False,
    ) -> Numbers:
        """Float numbers for sites of these ``widths``, all ``value``, or a copy of what it has for each site.

        Raises RunFailed for a name that exists.
        """
        if name in self:
            raise RunFailed(f"per_unit '{name}' exists: choose another name", blame=METHOD)
        first = value if isinstance(value, Mapping) else {site: torch.tensor(value) for site in widths}
        self[name] = {site: torch.empty(width, device=device).copy_(first[site]) for site, width in widths.items()}
        self.trainable |= {name} if trainable else set()
        self.start_step()
        return self[name]

    def start_step(self) -> None:
        """The trainable numbers are leaves without a gradient, whatever the method or a slice put in their places."""
        for numbers in (self[name] for name in self.trainable):
            for site, value in numbers.items():
                numbers[site] = value if value.is_leaf else value.detach()
                numbers[site].requires_grad_(True).grad = None

    def slice(self, masks: Mapping[str, Tensor]) -> None:
        """Keep the numbers of the units whose mask (site -> bool ``[n_units]``) is True; sites without one go."""
        for numbers in self.values():
            left = {site: numbers[site].detach()[mask.to(numbers[site].device)] for site, mask in masks.items()}
            numbers.clear()
            numbers.update(left)
        self.start_step()

    def load(self, state: Mapping[str, Numbers]) -> None:
        """Put back the numbers of a checkpoint."""
        for name, numbers in state.items():
            self[name].update(numbers)
        self.start_step()
