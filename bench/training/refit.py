"""Refitting what reads the sites that lose units, so that its responses stay near those of the dense network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.errors import METHOD, RunFailed
from bench.pruning.layers import Layer
from bench.training.checkpoint import clone_state
from bench.training.masked_model import MaskedModel

Solve = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a reader: inputs ``[rows, k]``, missing responses ``[rows, O]`` and weights, to their change ``[O, k]``."""


State = dict[str, Tensor]
Sample = Callable[[list[Layer], int, int, State | None], dict[str, Tensor]]
"""Rows of what layers read: of so many images and patches, in the network as it is or with another state."""


class Refit:
    """What one prune has refitted so far.

    Args:
        model: before anything is changed: its responses are what is fitted.
        readers: layers of its network that read a site.
        sample: takes rows of what they read.

    Attributes:
        masks: of the sites that were refitted, site -> bool ``[n_units]``.
        seconds: that were spent in ``solve``.
        facts: what a record says: most ``images`` and ``patches``, and whose ``inputs``.
    """

    def __init__(self, model: MaskedModel, readers: Mapping[str, Layer], sample: Sample) -> None:
        self._model, self._sample, self._state = model, sample, clone_state(model.network)
        self._readers = list(readers.values())
        self._weights = {layer.name: layer.matrix().detach().double() for layer in self._readers}
        self._dense: dict[tuple[int, int, str], tuple[State, State]] = {}
        self._shifts: dict[str, Tensor] = {}  # reader -> what was added to its output
        self.masks: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.facts: dict[str, Any] = {}

    def fit(
        self, site: str, mask: Tensor, solve: Solve, inputs: str, images: int, patches: int
    ) -> dict[str, tuple[float, float]]:
        """Refit the readers of ``site``; see :meth:`bench.training.layer_view.LayerView.refit`."""
        if inputs not in ("now", "base"):
            raise RunFailed(f"ctx.refit with inputs '{inputs}': now or base", blame=METHOD)
        readers = [layer for layer in self._readers if site in layer.reads]
        responses, dense = self._responses(images, patches, inputs)
        self.masks[site] = mask.to(self._model.device)
        self.facts |= {"images": max(images, self.facts.get("images", 0)), "inputs": inputs}
        self.facts["patches"] = max(patches, self.facts.get("patches", 0))
        if inputs == "base":
            found = {layer.name: dense[layer.name] for layer in readers}
        else:
            with self._model.masked(self.masks):
                found = self._sample(readers, images, patches, None)
        return {
            layer.name: self._fit(layer, found.pop(layer.name).double(), responses[layer.name], solve)
            for layer in readers
        }

    def _fit(self, layer: Layer, x: Tensor, response: Tensor, solve: Solve) -> tuple[float, float]:
        """Refit one reader of ``x`` ``[rows, K]``; mean square of what is missing before and after."""
        kept = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        for site in self.masks.keys() & set(layer.reads):
            unit = layer.columns(site)
            kept &= (unit < 0) | self.masks[site][unit]
        weight = layer.matrix().detach().double()
        shift = self._shifts.get(layer.name, torch.zeros(len(weight), dtype=x.dtype, device=x.device))
        missing = response - (x * kept) @ weight.T - shift
        if not missing.any():
            return 0.0, 0.0  # to the bit: an all too exact solver could still move the weights
        x = x[:, kept]
        if layer.shifts:
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        began = time.perf_counter()
        change = solve(x, missing, weight[:, kept])
        self.seconds += time.perf_counter() - began
        wanted = [len(weight), x.shape[1]]
        if not isinstance(change, Tensor) or list(change.shape) != wanted or not bool(change.isfinite().all()):
            given = f"{list(change.shape)}" if isinstance(change, Tensor) else type(change).__name__
            why = f"ctx.refit: solve gave {given} for the reader {layer.name}, not {wanted} finite numbers"
            raise RunFailed(why, blame=METHOD)
        columns = int(kept.sum())
        weight[:, kept] += change[:, :columns]
        layer.assign(weight)
        if layer.shifts:
            layer.shift_(change[:, -1])
            self._shifts[layer.name] = shift + change[:, -1]
        return float(missing.square().mean()), float((missing - x @ change.T).square().mean())

    def _responses(self, images: int, patches: int, inputs: str) -> tuple[State, State]:
        """Responses of all readers in the network as it was, ``[rows, O]`` in float64; what they read, for ``base``."""
        key = images, patches, inputs
        if key not in self._dense:
            found = self._sample(self._readers, images, patches, self._state)
            responses = {name: x.double() @ self._weights[name].T for name, x in found.items()}
            self._dense[key] = responses, found if inputs == "base" else {}
        return self._dense[key]
