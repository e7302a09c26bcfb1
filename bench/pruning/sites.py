"""Sites: the prunable widths of a network. :mod:`bench.pruning.site_discovery` finds them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.pruning.blocks import Block, holder, remove
from bench.pruning.slicing import (
    CONVS,
    TRANSPOSED,
    ChannelSlice,
    Number,
    outputs_first,
    part,
    rows_axis,
    slice_network,
)
from bench.pruning.unit_groups import UnitGroups


@dataclass(frozen=True)
class Consumer:
    """Where a consumer reads a site.

    Attributes:
        layer: dotted name of the consumer.
        axis: channel axis of its input, 1 or -1.
        width: number of input channels, all sites together.
        positions: input channels that belong to the site, int64 ``[k]``.
        units: the unit each belongs to, int64 ``[k]`` (a flattened map repeats each unit).
    """

    layer: str
    axis: int
    width: int
    positions: Tensor
    units: Tensor

    @property
    def repeats(self) -> int:
        """Input channels per unit, where it covers the whole input unit by unit; 0 otherwise."""
        n_units = int(self.units.max()) + 1
        each = self.width // n_units
        whole = len(self.positions) == self.width == each * n_units
        in_order = whole and torch.equal(self.positions, torch.arange(self.width))
        return each if in_order and torch.equal(self.units, torch.arange(n_units).repeat_interleave(each)) else 0


@dataclass(frozen=True)
class Site(UnitGroups):
    """One prunable width: ``n_units`` filters, channels or neurons that leave together with all that belongs to them.

    Attributes:
        name: dotted name of the first layer that produces the units.
        n_units: how many there are.
        kind: ``conv`` or ``linear``; ``block`` for a :class:`bench.pruning.block_sites.BlockSite`.
        producers: layers whose output channels the units are.
        norms: batch norms over exactly these units.
        consumers: where the units are read, and at which input positions.
        cuts: everything a slice removes.
        numbers: what counts the units in the network's code: the heads of attention.
        blocks: the units themselves, where they are blocks.
        least: how many of these stay where the user does not say so.
        other_macs: what a trace says that operators outside of layers (pooling, attention) do for one unit of one
            image; the cost model tests it.
    """

    name: str
    n_units: int
    kind: Literal["conv", "linear", "block"]
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    consumers: tuple[Consumer, ...]
    cuts: tuple[ChannelSlice, ...]
    network: nn.Module = field(repr=False, compare=False)
    numbers: tuple[Number, ...] = ()
    blocks: tuple[Block, ...] = ()
    least: int = 1
    other_macs: int = 0

    def rows(self) -> Tensor:
        """Weights that produce each unit, ``[n_units, fan_in]`` (all producers side by side); differentiable."""
        return torch.cat([weight.flatten(1) for weight in self.weights()], dim=1)

    def weights(self) -> list[Tensor]:
        """The producers' weights themselves, each ``[n_units, inputs, ...]``.

        Where several channels are one unit (a group of a convolution, an attention head), ``inputs`` has those of
        all of them.
        """
        makers = {p: self.network.get_submodule(p) for p in self.producers}
        return [  # a padded shortcut has none
            self._by_unit(p, outputs_first(m)) for p, m in makers.items() if isinstance(m, (*CONVS, nn.Linear))
        ]

    def _by_unit(self, layer: str, channels: Tensor) -> Tensor:
        """Values ``[channels, inputs, ...]`` of a layer that makes or passes on the units, as ``[n_units, ...]``."""
        cut = next(cut for cut in self.cuts if cut.layer == layer and cut.side != "in")
        if torch.equal(cut.units, torch.arange(self.n_units)):
            return channels
        order = cut.positions[cut.units.argsort(stable=True)].to(channels.device)
        return channels[order].unflatten(0, (self.n_units, -1)).flatten(1, 2)

    def kernels(self) -> Tensor:
        """Weights kernel by kernel, ``[n_units, inputs, positions]`` (1 position for linear layers); differentiable.

        Producers with kernels of different sizes are padded with zeros.
        """
        weights = [w.flatten(2) if w.dim() > 2 else w[..., None] for w in self.weights()]
        most = max(w.shape[2] for w in weights)
        return torch.cat([F.pad(w, (0, most - w.shape[2])) for w in weights], dim=1)

    def gamma(self) -> Tensor | None:
        """``|gamma|`` of the units' batch norms summed, ``[n_units]``, differentiable; None without a scaled norm."""
        scales = [self.network.get_submodule(n).weight for n in self.norms]
        sizes = [  # a norm may have no scale
            self._by_unit(n, s[:, None]).abs().sum(dim=1) for n, s in zip(self.norms, scales) if isinstance(s, Tensor)
        ]
        return torch.stack(sizes).sum(dim=0) if sizes else None

    def scale(self) -> Tensor:
        """:meth:`gamma`; raises RunFailed where the site has no batch norm with a scale."""
        gamma = self.gamma()
        if gamma is None:
            raise RunFailed(f"site {self.name} has no batch norm with a scale; this method needs one at every site")
        return gamma

    def effective_norm(self) -> Tensor:
        """l2 norm of each unit's weights as its norm rescales them, ``[n_units]``: ``|gamma| ||w|| / sqrt(var + eps)``.

        Batch norm undoes the size of the weights, so that their own norm says nothing after it. Several norms count
        by their mean, and so do a unit's channels where it has several; without norms it is the plain l2 norm.
        """
        factors = []
        for name in self.norms:
            norm: Any = self.network.get_submodule(name)
            if norm.running_var is not None:
                gain = 1.0 if norm.weight is None else norm.weight.abs()
                factor = gain / (norm.running_var + norm.eps).sqrt()
                factors.append(self._by_unit(name, factor[:, None]).mean(dim=1))
        size = self.rows().norm(dim=1)
        return size * torch.stack(factors).mean(dim=0) if factors else size

    def unit_parameters(self) -> Iterator[tuple[Tensor, ChannelSlice]]:
        """Parameters whose rows belong to single units: weights and biases that make them, their norms' scales.

        The weight of a transposed convolution is a view that shares its memory, with the outputs first. A parameter
        of its own, such as a layer scale, may have its rows along another axis (:func:`rows_axis`).
        """
        for cut in self.cuts:
            if cut.side != "in":
                module = part(self.network, cut.layer)
                if isinstance(module, nn.Parameter):
                    yield module, cut
                    continue
                turned = isinstance(module, TRANSPOSED)
                for name, parameter in module.named_parameters(recurse=False):
                    yield (outputs_first(module).detach() if turned and name == "weight" else parameter), cut

    def reader_weights(self) -> Iterator[tuple[Tensor, ChannelSlice]]:
        """Weights whose columns (axis 1) read single units; those of grouped convolutions are left out."""
        for layer, cut in self.readers():
            weight: Any = outputs_first(layer)
            yield (weight.detach() if isinstance(layer, TRANSPOSED) else weight), cut

    def held(self, mask: Tensor) -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
        """What belongs to the units whose ``mask`` is False: parameters, and the indices in each.

        Of what they are made of, and of the weights that read them.
        """
        for parameter, cut in self.unit_parameters():
            alone = parameter is part(self.network, cut.layer)
            before = [slice(None)] * rows_axis(parameter) if alone else []
            yield parameter, (*before, cut.positions.to(mask.device)[~mask[cut.units.to(mask.device)]])
        for parameter, cut in self.reader_weights():
            yield parameter, (slice(None), cut.positions.to(mask.device)[~mask[cut.units.to(mask.device)]])


class Sites(Mapping[str, Site]):
    """The sites of one network by name, and the reason for each rejected candidate."""

    def __init__(self, sites: dict[str, Site], rejected: dict[str, str], coupling: str) -> None:
        self._sites, self.rejected, self.coupling = sites, rejected, coupling

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    @property
    def widths(self) -> dict[str, int]:
        """Units of each site."""
        return {name: site.n_units for name, site in self.items()}

    def ones(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Masks that keep everything."""
        return {name: torch.ones(site.n_units, dtype=torch.bool, device=device) for name, site in self.items()}

    def fold_(self, factors: Mapping[str, Tensor]) -> None:
        """Each site's :meth:`~bench.pruning.unit_groups.UnitGroups.fold_` of its ``factors`` ``[n_units]``."""
        for name, site in self.items():
            site.fold_(factors[name])

    def removed(self, masks: Mapping[str, Tensor]) -> list[Block]:
        """The blocks that ``masks`` (site -> bool ``[n_units]``, True keeps) remove."""
        found = [(site.blocks, masks[name].tolist()) for name, site in self.items() if site.blocks]
        return [block for blocks, mask in found for block, kept in zip(blocks, mask, strict=True) if not kept]

    def absent(self, masks: Mapping[str, Tensor]) -> set[str]:
        """Sites that lie inside of blocks which ``masks`` remove."""
        gone = self.removed(masks)
        return {n for n, site in self.items() if gone and site.cuts and all(holder(c.layer, gone) for c in site.cuts)}

    def settled(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``masks`` with no unit left in sites that are absent."""
        absent = self.absent(masks)
        return {name: torch.zeros_like(mask) if name in absent else mask for name, mask in masks.items()}

    def cuts(self, masks: Mapping[str, Tensor]) -> list[tuple[ChannelSlice, Tensor]]:
        """What ``masks`` remove of layers that stay, as :func:`slice_network` takes it."""
        gone = self.removed(masks)
        return [(c, masks[name]) for name, site in self.items() for c in site.cuts if not holder(c.layer, gone)]

    def numbers(self, masks: Mapping[str, Tensor]) -> list[tuple[Number, int]]:
        """What counts units in layers that stay, each with how many ``masks`` keep."""
        gone = self.removed(masks)
        counted = ((number, name) for name, site in self.items() for number in site.numbers)
        return [(number, int(masks[name].sum())) for number, name in counted if not holder(number.module, gone)]

    def slice(self, network: nn.Module, masks: Mapping[str, Tensor], in_place: bool = False) -> nn.Module:
        """A physically smaller copy of ``network`` (or itself) without the units whose mask is False."""
        return remove(slice_network(network, self.cuts(masks), self.numbers(masks), in_place), self.removed(masks))

    def bind(self, network: nn.Module) -> Sites:
        """The same sites of another network of the same architecture."""
        moved = {name: dataclasses.replace(site, network=network) for name, site in self.items()}
        return Sites(moved, self.rejected, self.coupling)

    def reindex_after(self, masks: Mapping[str, Tensor], network: nn.Module) -> Sites:
        """These sites as they are on ``network``, which is :meth:`slice` of theirs by ``masks``."""
        lost: dict[tuple[str, bool], list[int]] = defaultdict(list)  # by layer and whether at its input
        for cut, mask in self.cuts(masks):
            lost[cut.layer, cut.side == "in"] += cut.positions[~mask[cut.units]].tolist()
        gone, absent = self.removed(masks), self.absent(masks)

        def moved(part: ChannelSlice | Consumer, at_input: bool, keep: Tensor) -> dict[str, Any]:
            stays = keep[part.units]
            before = torch.tensor(sorted(lost[part.layer, at_input]), dtype=torch.int64)
            at = part.positions[stays]
            return {
                "positions": at - torch.searchsorted(before, at),
                "units": (keep.cumsum(0) - 1)[part.units[stays]],
            }

        found: dict[str, Site] = {}
        for name, site in self.items():
            keep = masks[name].cpu()
            if site.blocks:
                blocks = tuple(block for block, kept in zip(site.blocks, keep.tolist(), strict=True) if kept)
                producers = tuple(block.name for block in blocks)
                found[name] = dataclasses.replace(
                    site, n_units=len(blocks), network=network, blocks=blocks, producers=producers
                )
                continue
            cuts = [
                dataclasses.replace(c, **moved(c, c.side == "in", keep)) for c in site.cuts if not holder(c.layer, gone)
            ]
            consumers = [
                dataclasses.replace(t, width=t.width - len(lost[t.layer, True]), **moved(t, True, keep))
                for t in site.consumers
                if not holder(t.layer, gone)
            ]
            if name in absent or not consumers:
                continue
            found[name] = dataclasses.replace(
                site,
                n_units=int(keep.sum()),
                network=network,
                cuts=tuple(cuts),
                consumers=tuple(consumers),
                producers=tuple(p for p in site.producers if not holder(p, gone)),
                norms=tuple(n for n in site.norms if not holder(n, gone)),
                numbers=tuple(n for n in site.numbers if not holder(n.module, gone)),
            )
        return Sites({n: site for n, site in found.items() if site.n_units}, self.rejected, self.coupling)
