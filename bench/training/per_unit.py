"""A method's own numbers for every unit, which follow the network when units are cut out of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.errors import METHOD, RunFailed

Numbers = dict[str, Tensor]
"""Site -> ``[n_units]``."""


class PerUnit(dict[str, Numbers]):
    """Name -> numbers of every unit. The inner dictionaries stay the same objects, so that a method can hold one."""

    def add(self, name: str, widths: Mapping[str, int], value: float, device: torch.device) -> Numbers:
        """Float numbers for sites of these ``widths``, all ``value``; raises RunFailed for a name that exists."""
        if name in self:
            raise RunFailed(f"per_unit '{name}' exists: choose another name", blame=METHOD)
        self[name] = {site: torch.full((width,), value, device=device) for site, width in widths.items()}
        return self[name]

    def slice(self, masks: Mapping[str, Tensor]) -> None:
        """Keep the numbers of the units whose mask (site -> bool ``[n_units]``) is True; sites without one go."""
        for numbers in self.values():
            left = {site: numbers[site][mask.to(numbers[site].device)] for site, mask in masks.items()}
            numbers.clear()
            numbers.update(left)

    def load(self, state: Mapping[str, Numbers]) -> None:
        """Put back the numbers of a checkpoint."""
        for name, numbers in state.items():
            self[name].update(numbers)
