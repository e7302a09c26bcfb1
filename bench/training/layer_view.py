"""The layers of a run's network as its method sees them: as matrices, what they read, and how they are refitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.data.loading import TrainingData
from bench.errors import METHOD, RunFailed
from bench.pruning.layers import Layer, find_layers
from bench.pruning.readings import Reading, readings_of
from bench.pruning.sites import Site
from bench.spec.digest import derive_seed
from bench.training import layer_samples
from bench.training.refit import Refit, Solve
from bench.training.unit_selection import UnitSelection


class LayerView(UnitSelection):
    """The part of a context that is about layers (see :class:`bench.training.context.Context`)."""

    _data: TrainingData
    _found: tuple[nn.Module, dict[str, Layer]] | None = None  # of which network
    _refit: Refit | None = None

    @property
    def layers(self) -> dict[str, Layer]:
        """The convolutions and linear layers that a forward pass runs, by name, in its order, the head last."""
        model = self._model
        if self._found is None or self._found[0] is not model.network:
            with model.probe(), model.ledger.paused():
                image = torch.zeros(2, *model.costs.shape, device=model.device)
                self._found = model.network, find_layers(model.network, model.sites, image, self._writing)
        return dict(self._found[1])

    @property
    def readers(self) -> dict[str, Layer]:
        """Those of ``layers`` that read a site, by name, in their order."""
        return {name: layer for name, layer in self.layers.items() if layer.reads}

    @property
    def head(self) -> Layer:
        """The last layer of a forward pass."""
        return list(self.layers.values())[-1]

    def _writing(self, call: str) -> None:
        if self._now.guard:
            self._now.require_hook(call, self._now.guard.writers)

    def inputs(
        self, layers: Iterable[Layer | str] | None = None, gradients: bool = False
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Within the block, every forward fills the yielded dictionary: name of a layer -> what it reads.

        That is ``[B, C, H, W]``, or ``[B, ..., features]`` of a linear layer, gates and inserted modules included.

        Args:
            layers: which, or their names; None for all.
            gradients: give tensors of the graph, so that a derivative by one of them is by what this layer reads, and
                not by what other layers make of the same; they are detached otherwise.
        """
        found = self.layers
        self._model.gates.install()
        return layer_samples.inputs(layer_samples.named(found, found if layers is None else layers), gradients)

    def to_units(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values shaped like what layers read (layer -> ``[B, ...]``), summed for each unit: site -> ``[n_units]``.

        The sum is over images, positions, the channels of a unit, and the layers that read it.
        """
        return layer_samples.to_units(self.sites, values)

    def samples(
        self, layers: Iterable[Layer | str], images: int = 512, patches: int = 4000, of: str = "now"
    ) -> dict[str, Tensor]:
        """Rows of what layers multiply with their matrices: name of a layer -> ``[rows, K]``, in float32.

        A row is what one output reads: an image, or a patch of it, with the zeros of its padding. Images are drawn
        from the training part by the run's seed, unaugmented. Rows are the same ones for every network.

        Args:
            layers: which, or their names. One forward of each image, in eval mode, whatever their number.
            images: at most so many.
            patches: rows of a layer, at most; a layer with one position gives a row for each image.
            of: ``now``, the network with its masks; or a snapshot without any: at the widths of the dense network
                where it was taken before anything was cut, else cut as the network is.
        """
        chosen = layer_samples.named(self.layers, layers)
        if of == "now":
            return self._samples(chosen, images, patches)
        return self._samples(chosen, images, patches, *self._model.whole(of), gated=False)

    def readings(self, images: int = 512, patches: int = 4000) -> dict[str, list[Reading]]:
        """Site -> what each layer that reads it computes of it, on rows of :meth:`samples`; see :class:`Reading`.

        It costs one forward of each image.
        """
        found: dict[str, list[Reading]] = {name: [] for name in self.sites}
        samples = self.samples(self.readers, images, patches)
        for name, layer in self.readers.items():
            for reading in readings_of(layer, samples[name]):
                found[reading.site].append(reading)
        return found

    def _samples(
        self,
        layers: list[Layer],
        images: int,
        patches: int,
        network: nn.Module | None = None,
        state: dict[str, Tensor] | None = None,
        gated: bool = True,
    ) -> dict[str, Tensor]:
        """:meth:`samples` of the network, or of another ``network`` with this ``state``; with or without masks."""
        if images < 1 or patches < 1:
            why = f"ctx.samples of {images} images and {patches} patches: at least 1 of each"
            raise RunFailed(why, blame=METHOD)
        used, count = network or self._model.network, min(images, len(self._data.train))
        bound = [dataclasses.replace(layer, network=used) for layer in layers]

        def forward(x: Tensor) -> None:
            used(x) if state is None else functional_call(used, state, (x,))

        with self._model.probe(), nullcontext() if gated else self._model.gates.off():
            return layer_samples.sample(used, bound, forward, self._images(count), count, patches, self._seed)

    def _images(self, count: int) -> Iterator[Tensor]:
        """The first images of the training part in the order of ``batches``."""
        seed, left = derive_seed(self._seed, "batches"), count
        size = self.recipe.batch_size
        for x, _ in islice(self._data.train.mixed(size, seed), -(-count // size)):
            yield x[:left]
            left -= len(x)

    def refit(
        self,
        site: Site | str,
        mask: Tensor,
        solve: Solve,
        inputs: Literal["now", "base"] = "now",
        images: int = 512,
        patches: int = 4000,
    ) -> dict[str, tuple[float, float]]:
        """In ``compensate``: fit what reads a site again, without the units that ``mask`` takes out.

        For each reader with a weight ``solve(x, missing, weight) -> change`` is called with float64 tensors:

        * ``x`` ``[rows, k]``: what it reads on the columns that stay; and a last column of ones, if its output can be
          shifted (:attr:`Layer.shifts`);
        * ``missing`` ``[rows, O]``: its response in the dense network, less the present one on these columns;
        * ``weight`` ``[O, columns that stay]``: its present weights on them;
        * ``change`` ``[O, k]``: what is added to the weights, and for the column of ones to the output.

        Args:
            site: its name, or itself.
            mask: bool ``[n_units]``, False goes.
            solve: see above.
            inputs: ``now``: of the network as compensated so far, where sites that were refitted before are masked (a
                pass for each site); ``base``: of the dense network (one pass for all).
            images: to look at, see :meth:`samples`.
            patches: rows of a layer.

        Returns:
            Reader -> mean square of ``missing`` before and after.
        """
        self._now.require_hook("refit", ("compensate",))
        name = site if isinstance(site, str) else site.name
        return self._refits().fit(name, mask, solve, inputs, images, patches)

    def _refits(self) -> Refit:
        """What this prune has refitted so far."""
        if self._refit is None:
            network = self._model.network
            self._refit = Refit(
                self._model, self.readers, lambda some, n, m, state: self._samples(some, n, m, network, state)
            )
        return self._refit
