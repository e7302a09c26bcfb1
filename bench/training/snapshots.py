"""Weights that a run can go back to, by name; they get smaller with the network, and are kept as they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from bench.pruning.sites import Sites
from bench.training.checkpoint import clone_state

State = dict[str, Tensor]
"""Parameters and buffers by name."""


class Taken(NamedTuple):
    """A snapshot as it was taken.

    Attributes:
        state: its parameters and buffers.
        masks: site -> bool over the dense network's units, those that were there; None for all.
    """

    state: State
    masks: dict[str, Tensor] | None


class Snapshots(dict[str, State]):
    """Tag -> parameters and buffers that fit the network as it is.

    Attributes:
        taken: tag -> the same before units were first cut out of it.
    """

    def __init__(self, init: State) -> None:
        super().__init__(init=init)
        self.taken: dict[str, Taken] = {}

    def take(self, tag: str, network: nn.Module) -> None:
        """Keep what ``network`` is now under ``tag``."""
        self[tag] = clone_state(network)
        self.taken.pop(tag, None)

    def slice(self, network: nn.Module, sites: Sites, masks: Mapping[str, Tensor], before: State | None) -> None:
        """Cut units out of all snapshots.

        Args:
            network: of which they are; it has its own weights again afterwards.
            sites: of the network.
            masks: site -> bool ``[n_units]``, False is cut.
            before: masks of the dense network's units that are in ``network``; None for all.
        """
        state = clone_state(network)
        for tag, snapshot in self.items():
            self.taken.setdefault(tag, Taken(snapshot, before))
            network.load_state_dict(snapshot)
            self[tag] = clone_state(sites.slice(network, masks))
        network.load_state_dict(state)
