"""Slicing: build the physically smaller network. Exact by construction, no approximation and no training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.shared_parameters import copied
from bench.models.torch_state import NORMS

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
OTHER_NORMS = (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Norms whose statistics are an image's own."""


@dataclass(frozen=True)
class ChannelSlice:
    """Channels of one layer that belong to units of one site.

    Attributes:
        layer: dotted name; of a parameter where that alone has an entry for each channel, as a layer scale has.
        side: ``out`` (the layer makes the units), ``in`` (it reads them), ``both`` (they pass through: batch
            norm, depthwise and grouped convolutions, PReLU, parameters).
        positions: channel indices, int64 ``[k]``.
        units: the unit each of them belongs to, int64 ``[k]``.
    """

    layer: str
    side: str
    positions: Tensor
    units: Tensor


@dataclass(frozen=True)
class Number:
    """A whole number in a module that counts a site's units: the heads of attention, or the channels of all of them.

    Attributes:
        module: dotted name.
        name: of the attribute.
        each: how many it counts for a unit.
    """

    module: str
    name: str
    each: int


def part(network: nn.Module, name: str) -> Any:
    """The layer of this dotted name, or the parameter."""
    try:
        return network.get_submodule(name)
    except AttributeError:
        return network.get_parameter(name)


def rows_axis(parameter: Tensor) -> int:
    """The axis along which a parameter that belongs to no layer has its units."""
    return next((axis for axis, size in enumerate(parameter.shape) if size > 1), 0)


def can_slice(module: Any) -> bool:
    """Whether channels of a layer (or parameter) can be removed."""
    known = (*CONVS, *NORMS, *OTHER_NORMS, nn.Linear, nn.PReLU, nn.Parameter)
    return isinstance(module, known) or hasattr(module, "slice_channels")


def slice_network(
    network: nn.Module,
    cuts: Iterable[tuple[ChannelSlice, Tensor]],
    numbers: Iterable[tuple[Number, int]] = (),
    in_place: bool = False,
) -> nn.Module:
    """A copy of ``network`` without the channels of removed units.

    Args:
        network: left as it was, unless ``in_place``.
        cuts: what to cut, each with the boolean mask ``[n_units]`` of its site (True keeps).
        numbers: what counts units, each with how many its site keeps.
        in_place: cut the layers of ``network`` itself.
    """
    removed: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for cut, mask in cuts:
        mask = mask.cpu()
        removed[cut.layer][cut.side].append(cut.positions[~mask[cut.units]])
    sliced = network if in_place else copied(network)
    for name, sides in removed.items():
        layer, lost = part(sliced, name), {side: torch.cat(positions) for side, positions in sides.items()}
        if isinstance(layer, nn.Parameter):
            owner, _, own = name.rpartition(".")
            setattr(sliced.get_submodule(owner), own, _without(layer, lost["both"]))
        else:
            _slice_layer(layer, lost)
    for number, kept in numbers:
        setattr(sliced.get_submodule(number.module), number.name, number.each * kept)
    return sliced


def channels(module: Any) -> tuple[int, int]:
    """Input and output channels of a layer (or parameter) that can be sliced."""
    if isinstance(module, nn.Parameter):
        return module.numel(), module.numel()
    if isinstance(module, OTHER_NORMS):
        n: int = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        return n, n
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, NORMS):
        return module.num_features, module.num_features
    if isinstance(module, nn.PReLU):
        return module.num_parameters, module.num_parameters
    return int(module.in_channels), int(module.out_channels)  # a convolution, or a layer that slices itself


def outputs_first(module: Any) -> Tensor:
    """The weight of a layer as ``[outputs, inputs, ...]``; that of a transposed convolution is stored the other way.

    A view of the weight, except for groups of several inputs and outputs in a transposed convolution.
    """
    weight: Tensor = module.weight
    if not isinstance(module, TRANSPOSED):
        return weight
    return weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)


def _without(parameter: nn.Parameter, lost: Tensor) -> nn.Parameter:
    """A parameter with one axis of several entries without some of these."""
    keep = torch.ones(parameter.numel(), dtype=torch.bool)
    keep[lost] = False
    new = parameter.detach().index_select(rows_axis(parameter), keep.nonzero().flatten().to(parameter.device))
    return nn.Parameter(new, requires_grad=parameter.requires_grad)


def _slice_layer(module: Any, lost: dict[str, Tensor]) -> None:
    n_in, n_out = channels(module)

    def kept(side: str) -> Tensor:
        keep = torch.ones(n_in if side == "in" else n_out, dtype=torch.bool)
        if side in lost:
            keep[lost[side]] = False
        return keep

    if isinstance(module, (*CONVS, nn.Linear)):
        _select_own(module, n_out, [lost[side] for side in ("out", "both") if side in lost])
    if hasattr(module, "slice_channels"):
        module.slice_channels(kept("in"), kept("out"))
    elif isinstance(module, nn.Linear):
        _select(module, weight=(kept("out"), kept("in")))
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, CONVS):
        if "both" in lost:  # whole groups; a depthwise convolution has one channel in each
            of_group, made = n_in // module.groups, n_out // module.groups
            keep = kept("both")
            module.groups = int(keep.sum()) // made
            module.in_channels, module.out_channels = module.groups * of_group, module.groups * made
            if isinstance(module, TRANSPOSED):  # [in, out of a group, ...]: whole groups of inputs
                _select(module, weight=(keep[::made].repeat_interleave(of_group), None), bias=keep)
            else:
                _select(module, weight=(keep, None))
        else:
            keep_in, keep_out = kept("in"), kept("out")
            module.in_channels, module.out_channels = int(keep_in.sum()), int(keep_out.sum())
            if isinstance(module, TRANSPOSED):
                _select(module, weight=(keep_in, keep_out), bias=keep_out)
            else:
                _select(module, weight=(keep_out, keep_in))
    elif isinstance(module, nn.PReLU):
        _select(module, weight=(kept("both"), None))
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.GroupNorm):  # whole groups
        keep = kept("both")
        _select(module, weight=(keep, None))
        module.num_groups = module.num_groups * int(keep.sum()) // n_out
        module.num_channels = int(keep.sum())
    else:  # batch norm, instance norm
        keep = kept("both")
        _select(module, weight=(keep, None))
        for name in ("running_mean", "running_var"):
            if getattr(module, name) is not None:
                setattr(module, name, getattr(module, name)[keep.to(getattr(module, name).device)].clone())
        module.num_features = int(keep.sum())


def _select_own(module: nn.Module, n_out: int, lost: list[Tensor]) -> None:
    """Keep entries of what a convolution or linear layer may have for each output, other than a bias: a gain, say."""
    for name, parameter in list(module.named_parameters(recurse=False)) if lost else ():
        one_axis = max(parameter.shape, default=1) == parameter.numel()
        if name not in ("weight", "bias") and one_axis and parameter.numel() == n_out:
            setattr(module, name, _without(parameter, torch.cat(lost)))


def _select(module: nn.Module, weight: tuple[Tensor, Tensor | None], bias: Tensor | None = None) -> None:
    """Keep rows (and columns) of ``weight`` and rows of ``bias`` (the same ones), whichever the module has."""
    rows, columns = weight
    for name in ("weight", "bias"):
        old = getattr(module, name, None)
        if old is None:
            continue
        kept = rows if name == "weight" or bias is None else bias
        new = old.detach()[kept.to(old.device)]
        if name == "weight" and columns is not None:
            new = new[:, columns.to(old.device)]
        # Indexing drops the memory format that channels-last kernels rely on.
        channels_last = new.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
        new = new.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
