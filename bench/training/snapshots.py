"""Weights that a run can go back to, by name; they get smaller with the network, and are kept as they were taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
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


class Snapshots(MutableMapping[str, State]):
    """Tag -> parameters and buffers that fit the network as it is.

    Attributes:
        taken: tag -> the same before units were first cut out of it.
    """

    def __init__(self, init: State) -> None:
        self.taken: dict[str, Taken] = {}
        self._states: dict[str, State] = {"init": init}
        self._whole: set[str] = set()  # those out of which the units of the last slice have not been cut so far
        self._last: tuple[nn.Module, Sites, Mapping[str, Tensor]] | None = None

    def __getitem__(self, tag: str) -> State:
        if tag in self._whole and self._last:
            network, sites, masks = self._last
            now = clone_state(network)
            network.load_state_dict(self._states[tag])
            self[tag] = clone_state(sites.slice(network, masks))
            network.load_state_dict(now)
        return self._states[tag]

    def __setitem__(self, tag: str, state: State) -> None:
        self._whole.discard(tag)
        self._states[tag] = state

    def __delitem__(self, tag: str) -> None:
        self._whole.discard(tag)
        del self._states[tag]

    def __contains__(self, tag: object) -> bool:
        return tag in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def take(self, tag: str, network: nn.Module) -> None:
        """Keep what ``network`` is now under ``tag``."""
        self[tag] = clone_state(network)
        self.taken.pop(tag, None)

    def slice(self, network: nn.Module, sites: Sites, masks: Mapping[str, Tensor], before: State | None) -> None:
        """Cut units out of all snapshots, of each once somebody asks for it.

        Args:
            network: of which they are; it is kept, and has its own weights again after each cut.
            sites: of the network.
            masks: site -> bool ``[n_units]``, False is cut.
            before: masks of the dense network's units that are in ``network``; None for all.
        """
        for tag, snapshot in self.items():
            self.taken.setdefault(tag, Taken(snapshot, before))
        self._last, self._whole = (network, sites, masks), set(self)
