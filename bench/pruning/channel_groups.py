"""What a forward pass says of a network: which channels of its layers go together, and which cannot be removed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.pruning.channel_labels import Ledger, Shape

BATCH = 2
"""Images in the forward pass: more than one, so that an axis of size 1 is not the axis of images."""
OUTPUT = "it makes the network's output"
STAND_IN = "stand_in"
"""Name of the layer inside a stand-in that is called in another way than a layer."""


@dataclass(frozen=True)
class Member:
    """Channels of one layer that depend on the units of a root layer.

    Attributes:
        layer: dotted name.
        side: ``out`` (it makes them), ``in`` (it reads them), ``both`` (they pass through), ``scale`` (it makes what
            they are multiplied by).
        positions: channel indices, rising.
        units: the root's unit each of them belongs to, numbered by their first channel in the root.
    """

    layer: str
    side: str
    positions: list[int]
    units: list[int]


@dataclass
class Trace:
    """What a forward pass shows about the layers of a network.

    Attributes:
        layers: dotted names of all modules in the network's order, as in the original.
        ledger: which labels go together.
        sides: (layer, ``in``, ``out`` or ``both``) -> label of each channel that the layer reads, makes or passes on,
            in the order of the forward pass; not positive where a channel has no unit.
        excitations: layers whose output only scales what it was computed from, as in squeeze-and-excitation blocks.
        calls: layer -> bits of the steps in which it is called, and of all steps that these were computed from.
        feeds: layer that passes units on -> the layers whose output reaches it without another layer between.
        work: of operators outside of layers: labels and shape of a tensor, and the MACs for each of its elements.
    """

    layers: list[str]
    ledger: Ledger
    sides: dict[tuple[str, str], Tensor]
    excitations: set[str]
    calls: dict[str, tuple[int, int]]
    feeds: dict[str, frozenset[str]]
    work: list[tuple[Tensor, Shape, int]]

    def roots(self) -> list[str]:
        """Layers whose output channels may be units, in the network's order.

        Grouped convolutions follow the layer that feeds them, excitations what they scale.
        """
        return [name for name in self.layers if (name, "out") in self.sides and name not in self.excitations]

    def fixed(self, layer: str) -> str | None:
        """Why units of ``layer`` cannot be removed; None where nothing in the forward pass speaks against it."""
        units = self._at_side[layer, "out"].tolist()
        why = next((self._fixed[c] for c in units if c in self._fixed), None)
        if len(set(units)) == 1 < len(units) and why != OUTPUT:
            return self._mixed.get(units[0], why)
        return why

    def mixing(self, layer: str) -> str | None:
        """What makes single units of many channels of ``layer``; None where nothing does."""
        return next((self._mixed[c] for c in self._at_side[layer, "out"].tolist() if c in self._mixed), None)

    def members(self, layer: str) -> list[Member]:
        """What goes with the output channels of ``layer``, itself first, in the order of the forward pass."""
        root = self._at_side[layer, "out"]
        units, first, inverse = np.unique(root, return_index=True, return_inverse=True)
        unit_of = np.full(len(self._classes), -1)
        unit_of[root] = np.argsort(np.argsort(first))[inverse]
        met = {key for c in units.tolist() for key in self._met[c]}
        keys = dict.fromkeys([(layer, "out"), *(key for key in self.sides if key in met)])
        found = []
        for name, side in keys:
            here = unit_of[self._at_side[name, side]]
            (positions,) = np.nonzero(here >= 0)
            scale = side == "out" and name in self.excitations
            found.append(Member(name, "scale" if scale else side, positions.tolist(), here[positions].tolist()))
        return found

    def behind(self, layer: str, other: str) -> bool:
        """Whether the output of ``layer`` was computed from that of ``other``."""
        return bool(self.calls[layer][1] & self.calls[other][0])

    def is_attention(self, layer: str) -> bool:
        """Whether units of ``layer`` are multiplied with units as matrices, as heads are."""
        return not self._of_heads.isdisjoint(self._at_side[layer, "out"].tolist())

    def other_macs(self, layer: str) -> int:
        """MACs that operators outside of layers do for one unit and one image; 0 where ``layer`` is not followed."""
        units = self._at_side.get((layer, "out"))
        return 0 if units is None else int(self._worked[units[0]]) // BATCH

    @cached_property
    def _classes(self) -> NDArray[np.int64]:
        return self.ledger.classes()

    @cached_property
    def _at_side(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        """(layer, side) -> class of each channel; 0 where it has no unit."""
        return {key: self._classes[labels.clamp(min=0).numpy()] for key, labels in self.sides.items()}

    @cached_property
    def _met(self) -> dict[int, list[tuple[str, str]]]:
        """Class -> (layer, side) where it is met."""
        found = defaultdict(list)
        for key, classes in self._at_side.items():
            for c in set(classes.tolist()) - {0}:
                found[c].append(key)
        return found

    @cached_property
    def _of_heads(self) -> set[int]:
        return {c for labels in self.ledger.heads for c in self._classes[labels].tolist()}

    @cached_property
    def _worked(self) -> NDArray[np.int64]:
        """Class -> MACs that operators outside of layers do for its elements."""
        done = np.zeros(len(self._classes), dtype=np.int64)
        for labels, shape, each in self.work:
            full = self._classes[labels.clamp(min=0).numpy()]
            done += each * np.bincount(full.ravel(), minlength=len(done)) * math.prod(shape) // max(full.size, 1)
        return done

    @cached_property
    def _fixed(self) -> dict[int, str]:
        return _first(self._classes, self.ledger.fixed)

    @cached_property
    def _mixed(self) -> dict[int, str]:
        return _first(self._classes, self.ledger.mixed)


def _first(classes: NDArray[np.int64], notes: Iterable[tuple[NDArray[np.int64], str]]) -> dict[int, str]:
    """Class -> the first note on one of its labels."""
    found: dict[int, str] = {}
    for labels, note in notes:
        for c in set(classes[labels].tolist()):
            found.setdefault(c, note)
    return found


def layer_name(name: str) -> str:
    """The name in the original network of a module in the traced copy."""
    return name.removesuffix(f".{STAND_IN}")
