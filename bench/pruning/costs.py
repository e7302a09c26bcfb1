"""MACs and parameters of a network as an exact function of its sites' widths, and of which blocks stay."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.measure import flops
from bench.models.torch_state import NORMS
from bench.pruning.blocks import holder
from bench.pruning.other_macs import lost_macs, other_macs, own_macs
from bench.pruning.sites import Sites
from bench.pruning.slicing import CONVS, OTHER_NORMS, channels, part

Vector = NDArray[np.int64]
"""Widths of a model's ``names``, then 1 or 0 for each block."""


class Costs:
    """What a network costs at any widths, with any blocks.

    Every layer costs ``p * (a * in * out + b * out)`` where ``in`` and ``out`` are linear in the widths, and ``p`` is 1
    or 0 as the block that it is in stays or not (1 outside of blocks). The other modules of a block, and those outside
    of all, cost ``p * (s * widths + r)``. The constants come from one fvcore count of the dense network, so the model
    and fvcore agree to the last MAC.

    Args:
        network: the dense network.
        sites: its sites.
        shape: shape of one input.

    Attributes:
        names: sites of channels, in the order of a vector.
        blocks: site of blocks -> the places of its units in a vector.
        dense: the vector of the dense network.
        unit_channels: for each of ``names``, how many channels one unit has in the layers that it is cut from.
        by_operator: MACs of the dense network, by operator.
    """

    def __init__(self, network: nn.Module, sites: Sites, shape: tuple[int, ...]) -> None:
        self.shape, self._sites, self.coupling = tuple(shape), list(sites), sites.coupling
        channel_sites = Sites({n: site for n, site in sites.items() if not site.blocks}, {}, sites.coupling)
        self.names = list(channel_sites)
        self._blocks = [block for site in sites.values() for block in site.blocks]
        widths = np.array([site.n_units for site in channel_sites.values()], dtype=np.int64)
        self.dense = np.concatenate([widths, np.ones(len(self._blocks), dtype=np.int64)])
        places = iter(range(len(widths), len(self.dense)))
        self.blocks = {n: np.array([next(places) for _ in site.blocks]) for n, site in sites.items() if site.blocks}
        self._least = {name: sites[name].least for name in self.blocks}
        around = {block.name: k for k, block in enumerate(self._blocks, 1)}

        def block_of(module: str) -> int:
            """Number of the block that a module is in; 0 outside of blocks."""
            found = holder(module, self._blocks)
            return around[found.name] if found else 0

        column = {name: k for k, name in enumerate(self.names)}
        counted = flops.count(network, shape)
        self.by_operator = counted.by_op
        layers: dict[str, dict[str, Vector]] = {}
        for name, site in channel_sites.items():
            for cut in site.cuts:
                per_unit = layers.setdefault(cut.layer, {}).setdefault(cut.side, np.zeros_like(widths))
                per_unit[column[name]] += len(cut.positions) // site.n_units
        none = np.zeros_like(widths)
        rows = []  # fixed and per-unit channels in and out; MACs and params per in*out; MACs and params per out
        modelled = 0
        for layer, sides in layers.items():
            module = part(network, layer)
            macs = sum(counted.by_module.get(layer, {}).values())
            n_in, n_out = channels(module)
            own = [("", module)] if isinstance(module, nn.Parameter) else module.named_parameters(recurse=False)
            params = {n: p.numel() for n, p in own}
            per_in, per_out = sides.get("in", none), sides.get("out", sides.get("both", none))
            # What passes through (batch norm, depthwise) costs per channel; what mixes channels costs per pair.
            pairs = isinstance(module, (*CONVS, nn.Linear)) and "both" not in sides
            weight = params.pop("weight", 0)
            rows.append(
                (
                    n_in - per_in @ widths,
                    n_out - per_out @ widths,
                    per_in,
                    per_out,
                    *((macs // (n_in * n_out), weight // (n_in * n_out), 0) if pairs else (0, 0, macs // n_out)),
                    (sum(params.values()) + (0 if pairs else weight)) // n_out,
                )
            )
            modelled += macs
        fixed_in, fixed_out, per_in_, per_out_, *costs = zip(*rows) if rows else [()] * 8
        self.fixed_in, self.fixed_out = (np.array(n, dtype=np.int64) for n in (fixed_in, fixed_out))
        self.per_in, self.per_out = (np.array(n, np.int64).reshape(len(rows), len(widths)) for n in (per_in_, per_out_))
        self.macs_pair, self.params_pair, self.macs_out, self.params_out = (np.array(c, dtype=np.int64) for c in costs)
        per_unit_of = np.concatenate([self.per_in, self.per_out])
        self.unit_channels = [tuple(set(each.tolist()) - {0}) for each in per_unit_of.T]
        self._rows = {layer: row for row, layer in enumerate(layers)}
        self._block_of = np.array([block_of(layer) for layer in layers], dtype=np.int64)
        self._own_macs = own_macs(counted)
        self._layers = {
            n for n, m in network.named_modules() if isinstance(m, (*CONVS, nn.Linear, *NORMS, *OTHER_NORMS))
        }
        # Of what is in no layer of a site: per block (0: outside) and unit, and constant per block.
        self._other = np.zeros((len(self._blocks) + 1, len(widths)), dtype=np.int64)
        if counted.total > modelled and self.names:
            for k, macs in enumerate(other_macs(network, channel_sites, shape, widths, counted).tolist()):
                within = {block_of(cut.layer) for cut in channel_sites[self.names[k]].cuts}
                if len(within) == 1:
                    self._other[within.pop(), k] = macs
                elif macs:
                    for does, lost in lost_macs(network, channel_sites, self.names[k], shape, counted).items():
                        self._other[block_of(does), k] += lost
        self._rest_macs = np.zeros(len(self._other), dtype=np.int64)
        for name, own in self._own_macs.items():
            self._rest_macs[block_of(name)] += 0 if name in self._rows else own
        self._rest_macs[0] = counted.total - modelled - self._rest_macs[1:].sum()
        self._rest_macs -= self._other @ widths
        self._rest_params = np.zeros(len(self._other), dtype=np.int64)
        for name, parameter in network.named_parameters():
            self._rest_params[block_of(name.rpartition(".")[0])] += parameter.numel()
        np.subtract.at(self._rest_params, self._block_of, self._layers_params(widths))
        self._whole = self.macs(self.dense), self.params(self.dense)
        self._left = {name: np.arange(len(places)) for name, places in self.blocks.items()}
        self._reduced: dict[tuple[bool, bytes], Self] = {}

    # --- vectors ---------------------------------------------------------------------------------------------

    def array(self, kept: Mapping[str, int | Tensor]) -> Vector:
        """The vector of what is kept of each site: a number of units, or a mask ``[n_units]``.

        A number of blocks means the first ones. Sites inside of removed blocks have no width.
        """
        vector = np.zeros_like(self.dense)
        for name, places in self.blocks.items():
            of_site = kept[name]
            vector[places] = of_site.tolist() if isinstance(of_site, Tensor) else np.arange(len(places)) < of_site
        there = self._present(vector)
        for k, name in enumerate(self.names):
            vector[k] = there[k] and number(kept[name])
        return vector

    def widths_of(self, network: nn.Module) -> Vector:
        """The vector of a slice of the dense network, read off its blocks and the layers that make the units."""
        vector, width = self.dense.copy(), len(self.names)
        vector[width:] = [block.is_in(network) for block in self._blocks]
        there = self._present(vector)
        for k, name in enumerate(self.names):
            layer = name if self._stays(self._rows[name], vector) else self._maker(k, vector)
            row = self._rows[layer]
            made = channels(network.get_submodule(layer))[1] - self.fixed_out[row] if there[k] else 0
            vector[k] = made // self.per_out[row, k]
        return vector

    def without(self, vector: Vector, free: bool = False) -> Self:
        """The costs where the blocks that ``vector`` lacks, and the sites inside of them, are gone for good.

        Args:
            vector: which blocks stay; its widths do not matter.
            free: whether the others may still go. Where not, there is no choice of blocks any more.
        """
        stays = np.concatenate([[1], vector[len(self.names) :]])
        if free and stays.all():
            return self
        key = free, stays.tobytes()
        if key in self._reduced:
            return self._reduced[key]
        there, rows, left = self._present(vector), stays[self._block_of] > 0, np.flatnonzero(stays)
        found = copy.copy(self)
        found._reduced = {}
        found.names = [name for name, is_there in zip(self.names, there, strict=True) if is_there]
        found.unit_channels = [each for each, is_there in zip(self.unit_channels, there, strict=True) if is_there]
        found._rows = {layer: k for k, layer in enumerate(n for n, row in self._rows.items() if rows[row])}
        for of_rows in ("fixed_in", "fixed_out", "macs_pair", "params_pair", "macs_out", "params_out"):
            setattr(found, of_rows, getattr(self, of_rows)[rows])
        found.per_in, found.per_out = self.per_in[rows][:, there], self.per_out[rows][:, there]
        gone = [block for block, is_there in zip(self._blocks, stays[1:], strict=True) if not is_there]
        found._own_macs = Counter({name: n for name, n in self._own_macs.items() if not holder(name, gone)})
        groups = np.eye(len(left), dtype=np.int64) if free else np.ones((1, len(left)), dtype=np.int64)
        found._other = groups @ self._other[left][:, there]
        found._rest_macs, found._rest_params = groups @ self._rest_macs[left], groups @ self._rest_params[left]
        found._block_of = np.searchsorted(left, self._block_of[rows]) * free
        found._blocks = [self._blocks[k - 1] for k in left[1:]] if free else []
        found.dense = np.concatenate([self.dense[: len(there)][there], np.ones(len(found._blocks), dtype=np.int64)])
        found.blocks, found._left, at = {}, {}, len(found.names)
        for name, places in self.blocks.items() if free else ():
            here = vector[places] > 0
            if here.any():
                found.blocks[name], found._left[name] = np.arange(at, at := at + here.sum()), self._left[name][here]
        self._reduced[key] = found
        return found

    def _present(self, vector: Vector) -> NDArray[np.bool_]:
        """For each site of channels whether a layer that it cuts stays."""
        if not self._blocks:
            return np.ones(len(self.names), dtype=bool)
        stays = np.concatenate([[1], vector[len(self.names) :]])[self._block_of]
        cut_here = (self.per_in + self.per_out > 0) & (stays > 0)[:, None]
        return np.asarray(cut_here.any(axis=0), dtype=bool)

    def _stays(self, row: int, vector: Vector) -> bool:
        block = self._block_of[row]
        return not block or bool(vector[len(self.names) + block - 1])

    def _maker(self, k: int, vector: Vector) -> str:
        """A layer that makes, or passes on, units of site ``k`` and stays; the site's own where none does."""
        makes = (layer for layer, row in self._rows.items() if self.per_out[row, k] and self._stays(row, vector))
        return next(makes, self.names[k])

    # --- costs -----------------------------------------------------------------------------------------------

    def macs(self, widths: Vector) -> int:
        """MACs of the network sliced to a vector, as fvcore counts them."""
        return int(self._macs(widths))

    def macs_within(self, modules: Iterable[str], widths: Vector) -> int:
        """MACs of these modules (dotted names) and what is inside them, as part of the network at ``widths``.

        Once units are gone, operators that belong to no layer, such as pooling, are left out.
        """
        inside = tuple(modules)
        macs = self._layers_macs(widths)
        whole = np.array_equal(widths, self.dense)
        gone = [block for block, stays in zip(self._blocks, widths[len(self.names) :], strict=True) if not stays]
        return sum(
            int(macs[self._rows[name]]) if name in self._rows else own
            for name, own in self._own_macs.items()
            if any(name == module or name.startswith(f"{module}.") for module in inside)
            and (whole or (name in self._layers and not holder(name, gone)))
        )

    def params(self, widths: Vector) -> int:
        """Parameters of the network sliced to a vector."""
        return int(self._params(widths))

    def _macs(self, widths: Vector) -> Vector:
        channel, stays = self._split(widths)
        n_in, n_out = self._channels(channel)
        if not self._blocks:
            of_layers: Vector = (n_in * n_out) @ self.macs_pair + n_out @ self.macs_out
            return of_layers + channel @ self._other[0] + self._rest_macs[0]
        layers = (n_in * n_out * self.macs_pair + n_out * self.macs_out) * stays[..., self._block_of]
        rest = (channel @ self._other.T + self._rest_macs) * stays
        total: Vector = layers.sum(axis=-1) + rest.sum(axis=-1)
        return total

    def _params(self, widths: Vector) -> Vector:
        channel, stays = self._split(widths)
        if not self._blocks:
            n_in, n_out = self._channels(channel)
            of_layers: Vector = (n_in * n_out) @ self.params_pair + n_out @ self.params_out
            return of_layers + self._rest_params[0]
        layers = self._layers_params(channel) * stays[..., self._block_of]
        total: Vector = layers.sum(axis=-1) + (self._rest_params * stays).sum(axis=-1)
        return total

    def _layers_macs(self, widths: Vector) -> Vector:
        """MACs of each layer that a site cuts, were no block gone."""
        n_in, n_out = self._channels(self._split(widths)[0])
        return self.macs_pair * (n_in * n_out) + self.macs_out * n_out

    def _layers_params(self, channel: Vector) -> Vector:
        n_in, n_out = self._channels(channel)
        return n_in * n_out * self.params_pair + n_out * self.params_out

    def _split(self, widths: Vector) -> tuple[Vector, Vector]:
        """Widths of the sites of channels; whether each block stays, the outside first."""
        if not self._blocks:
            return widths, np.ones(1, dtype=np.int64)
        channel, blocks = widths[..., : len(self.names)], widths[..., len(self.names) :]
        return channel, np.concatenate([np.ones_like(widths[..., :1]), blocks], axis=-1)

    def _channels(self, widths: Vector) -> tuple[Vector, Vector]:
        return self.fixed_in + widths @ self.per_in.T, self.fixed_out + widths @ self.per_out.T


def number(kept: int | Tensor) -> int:
    """How many units are kept, given their number or their mask."""
    return int(kept.sum()) if isinstance(kept, Tensor) else kept
