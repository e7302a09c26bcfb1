"""Parameters of a network as they were, to compare them with what they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> integers of that size."""


class Weights:
    """A copy of a network's parameters."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._copies = {name: p.detach().clone() for name, p in network.named_parameters()}

    def changed(self, but_zeros: bool = False) -> str | None:
        """Name of the first parameter that is not the same to the bit; None where all are.

        Args:
            but_zeros: what has become zero counts as the same.
        """
        found = dict(self._network.named_parameters())
        for name in {**self._copies, **found}:
            if name not in found or name not in self._copies:
                return name
            now, before = bits(found[name].detach()), bits(self._copies[name])
            same = torch.equal(now, before)
            zero = found[name].detach() == 0  # also -0.0
            if not same and not (but_zeros and now.shape == before.shape and bool(((now == before) | zero).all())):
                return name
        return None


def bits(tensor: Tensor) -> Tensor:
    """The elements of ``tensor`` as integers of the same size, so that what is not a number equals itself."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.view(BITS[tensor.element_size()])
