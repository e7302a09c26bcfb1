"""Modules that say themselves which of their channels make a unit, where no forward pass shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

from torch import nn

from bench.pruning.channel_groups import Member
from bench.pruning.slicing import can_slice, channels


class OwnUnits(Protocol):
    """A module inside of which channels of one layer make units that another one reads, such as heads of attention.

    The forward pass is not followed inside of it. What it says is proved like everything else: gate and slice have to
    agree, or there is no site. Its forward has to work with fewer units, so it takes their number from the widths of
    its layers.
    """

    def units(self) -> tuple[str, str, Sequence[int], Sequence[int]]:
        """The layer inside that makes the units, the one that reads them, and the unit of each of their channels.

        Units are numbered from 0, in the order of their first channels; each has as many channels as the others.
        """
        ...

    def stand_in(self) -> nn.Module:
        """What is followed instead: a module called like this one with the same widths outside, a linear layer say."""
        ...


def has_units(module: Any) -> TypeGuard[OwnUnits]:
    """Whether a module follows the protocol."""
    return hasattr(module, "stand_in") and callable(getattr(module, "units", None))


def declared(network: nn.Module) -> list[str]:
    """Layers inside of such modules that make units."""
    found = [(name, module.units()) for name, module in network.named_modules() if has_units(module)]
    return [f"{name}.{said[0]}" for name, said in found]


def members(layer: str, network: nn.Module) -> list[Member]:
    """Channels that make and read the units of ``layer``; raises ValueError where it says something impossible."""
    inside = layer.rpartition(".")[0]
    parent: Any = network.get_submodule(inside)
    maker, reader, made_by, read_at = parent.units()
    found = []
    for name, side, units in ((maker, "out", list(made_by)), (reader, "in", list(read_at))):
        module = dict(parent.named_modules()).get(name)
        if module is None or not can_slice(module):
            raise ValueError(f"units() of {inside} names {name!r}, which is no layer inside that can lose channels")
        n = channels(module)[side == "out"]
        if len(units) != n:
            raise ValueError(f"units() of {inside} gives units of {len(units)} channels, {name} has {n}")
        if list(dict.fromkeys(units)) != list(range(len(set(made_by)))):
            raise ValueError(
                f"units() of {inside}: the units of {name} are not 0, 1, .. in their order, alike for both"
            )
        found.append(Member(f"{inside}.{name}", side, list(range(n)), units))
    return found
