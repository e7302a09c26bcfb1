"""Blocks: modules ``f(x + b_1 + b_2 ..)`` that leave a network whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.shared_parameters import copied

RELU = "relu"
"""Means the function in :attr:`Block.after`."""


@dataclass(frozen=True)
class Block:
    """A module that adds its branches to its input.

    Attributes:
        name: dotted name of the module.
        ends: dotted names of the modules whose outputs are the branches.
        norms: dotted names of the batch norms that branches end in, as far as they do.
        after: dotted name of the module's activation of the sum, which stays where the block is removed; ``relu`` for
            the function; empty where nothing does.
    """

    name: str
    ends: tuple[str, ...]
    norms: tuple[str, ...] = ()
    after: str = ""

    def holds(self, layer: str) -> bool:
        """Whether the module ``layer`` is the block, or in it, and leaves with it."""
        inside = layer == self.name or layer.startswith(f"{self.name}.")
        return inside and not (self.after and (layer == self.after or layer.startswith(f"{self.after}.")))

    def is_in(self, network: nn.Module) -> bool:
        """Whether a slice of the network still has it."""
        try:
            network.get_submodule(self.ends[0])
        except AttributeError:
            return False
        return True

    def removed_from(self, network: nn.Module) -> nn.Module:
        """What takes its place: nothing, or the activation, with its parameters under the names they have."""
        if not self.after:
            return nn.Identity()
        stays: Any = nn.ReLU() if self.after == RELU else copied(network.get_submodule(self.after))
        if hasattr(stays, "inplace"):
            stays.inplace = False  # its input is not its own any more
        for name in reversed(self.after.removeprefix(f"{self.name}.").split(".")):
            stays = nn.Sequential(OrderedDict([(name, stays)]))
        made: nn.Module = stays
        return made


def holder(layer: str, blocks: Iterable[Block]) -> Block | None:
    """The block that a module is in, if any."""
    return next((block for block in blocks if block.holds(layer)), None)


def remove(network: nn.Module, blocks: Iterable[Block]) -> nn.Module:
    """``network`` itself without these blocks; all other parameters keep their names."""
    for block in blocks:
        around, _, name = block.name.rpartition(".")
        setattr(network.get_submodule(around), name, block.removed_from(network))
    return network


def as_text(mask: Tensor) -> str:
    """A mask of blocks as records hold it: ``1101``."""
    return "".join(str(int(kept)) for kept in mask.tolist())


def as_mask(text: str) -> Tensor:
    """The inverse of :func:`as_text`."""
    return torch.tensor([bit == "1" for bit in text], dtype=torch.bool)
