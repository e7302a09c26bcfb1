"""Layers: convolutions and linear layers as matrices, in the order in which a forward pass runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from bench.errors import METHOD, RunFailed
from bench.models.torch_state import NORMS, evaluating
from bench.pruning.sites import Site, Sites
from bench.pruning.slicing import CONVS, TRANSPOSED, channels, outputs_first


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: ``O`` outputs, each a sum over ``K`` columns.

    A column is a weight of one output: an input of a linear layer, an input channel at a kernel position (channels
    first) of a convolution. What another group of a grouped convolution reads is a column of zeros.

    Attributes:
        name: dotted name.
        makes: name of the site whose units its outputs are; None for no site.
        reads: names of the sites that it reads, in their order.
        follower: dotted name of the batch norm directly behind it, where that reads its output and nothing else, and
            nothing else reads its output; None where there is none.
    """

    name: str
    makes: str | None
    reads: tuple[str, ...]
    follower: str | None
    sites: Sites = field(repr=False, compare=False)
    network: nn.Module = field(repr=False, compare=False)
    writing: Callable[[str], None] = field(repr=False, compare=False)  # raises where weights may not change

    @property
    def module(self) -> Any:
        """The torch module."""
        return self.network.get_submodule(self.name)

    def matrix(self) -> Tensor:
        """Its weight as ``[O, K]``, differentiable."""
        weight = outputs_first(self.module).flatten(1)
        groups = getattr(self.module, "groups", 1)
        if groups == 1:
            return weight
        return torch.block_diag(*weight.unflatten(0, (groups, -1)))

    @torch.no_grad()
    def assign(self, matrix: Tensor, bias: Tensor | None = None) -> None:
        """Write ``matrix`` ``[O, K]`` into the weight, ``bias`` ``[O]`` into the bias.

        Raises:
            RunFailed: in a hook that may not change weights; another shape; a weight that is computed; no bias.
        """
        self.writing(f"layers['{self.name}'].assign")
        module, weight = self.module, getattr(self.module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise RunFailed(f"layer {self.name}: its weight is computed from others and cannot be assigned")
        wanted = tuple(self.matrix().shape)
        if tuple(matrix.shape) != wanted:
            raise RunFailed(f"layer {self.name}: matrix {list(matrix.shape)}, not {list(wanted)}", blame=METHOD)
        if bias is not None and module.bias is None:
            raise RunFailed(f"layer {self.name} has no bias to assign", blame=METHOD)
        groups = getattr(module, "groups", 1)
        if groups > 1:
            blocks = matrix.reshape(groups, wanted[0] // groups, groups, -1)
            matrix = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)
        new = matrix.reshape(outputs_first(module).shape)
        if isinstance(module, TRANSPOSED):
            new = new.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        weight.copy_(new)
        if bias is not None:
            module.bias.copy_(bias)

    def columns(self, site: Site | str) -> Tensor:
        """The unit of ``site`` that each column reads, int64 ``[K]``; -1 where it reads none of them."""
        taps = self.sites[site if isinstance(site, str) else site.name].consumers
        unit = torch.full((channels(self.module)[0],), -1)
        for tap in taps:
            if tap.layer == self.name:
                unit[tap.positions] = tap.units
        weight = self.module.weight
        taps_of_a_kernel = 1 if isinstance(self.module, nn.Linear) else weight[0, 0].numel()
        return unit.repeat_interleave(taps_of_a_kernel).to(weight.device)

    @property
    def shifts(self) -> bool:
        """Whether :meth:`shift_` works."""
        return self.module.bias is not None or self.follower is not None

    @torch.no_grad()
    def shift_(self, delta: Tensor) -> None:
        """Add ``delta`` ``[O]`` to the output: to the bias, else to the batch norm directly behind it in eval mode.

        Raises:
            RunFailed: in a hook that may not change weights, or where there is neither.
        """
        self.writing(f"layers['{self.name}'].shift_")
        if self.module.bias is not None:
            self.module.bias.add_(delta)
        elif self.follower is not None:
            norm: Any = self.network.get_submodule(self.follower)
            norm.running_mean.sub_(delta)
        else:
            raise RunFailed(f"layer {self.name} cannot be shifted: no bias, no batch norm directly behind it")

    def positions(self, output: Tensor) -> int:
        """At how many positions of an image the layer makes its outputs, from an output of a batch."""
        return output[0].numel() // channels(self.module)[1]

    def patches(self, x: Tensor, output: Tensor, rows: Tensor) -> Tensor:
        """What the layer multiplies with its matrix, ``[R, K]``, padding included.

        Args:
            x: what it reads, of a batch.
            output: what it makes of that.
            rows: which outputs, int64 ``[R]``: ``image * positions + position``, an index in the batch and one in the
                flattened positions of an output.
        """
        module = self.module
        if isinstance(module, nn.Linear):
            return x.reshape(-1, x.shape[-1])[rows]
        x, first, stride, step = _spread(module, x)
        image, *at = torch.unravel_index(rows, (len(output), *output.shape[2:]))
        index: list[Any] = [image.reshape(-1, *[1] * len(at)), slice(None)]
        for axis, where in enumerate(at):
            shape = [-1, *[1] * len(at)]
            shape[axis + 1] = module.kernel_size[axis]
            taps = torch.arange(module.kernel_size[axis], device=x.device) * step[axis]
            index.append((where[:, None] * stride[axis] + first[axis] + taps).reshape(shape))
        return x[tuple(index)].movedim(-1, 1).flatten(1)  # the axes of an index around a slice come first


def _spread(module: Any, x: Tensor) -> tuple[Tensor, list[int], list[int], list[int]]:
    """The input of a convolution with its padding; by axis, where its first output reads it first, the step from
    output to output, and that from tap to tap."""
    ones, transposed = [1] * len(module.kernel_size), isinstance(module, TRANSPOSED)
    if not transposed:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
        return padded, [0 for _ in ones], list(module.stride), list(module.dilation)
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], module.stride)]  # with zeros between what a stride parts
    more = [max(0, r - p + o) for r, p, o in zip(reach, module.padding, module.output_padding)]
    padded = x.new_zeros(*x.shape[:2], *(r + n + m for r, n, m in zip(reach, sizes, more)))
    inside: list[Any] = [slice(r, r + n, s) for r, n, s in zip(reach, sizes, module.stride)]
    padded[(..., *inside)] = x
    return padded, [r + p for r, p in zip(reach, module.padding)], ones, [-d for d in module.dilation]


def find_layers(network: nn.Module, sites: Sites, x: Tensor, writing: Callable[[str], None]) -> dict[str, Layer]:
    """The convolutions and linear layers that a forward pass of ``x`` runs, in its order, the head last.

    Args:
        network: as it is, in any mode.
        sites: of it.
        x: a batch of images.
        writing: is called with what is about to be written, and raises where that is not allowed.
    """
    watch = _Watch(network)
    with torch.no_grad(), evaluating(network):
        watch.run(x)
    makes = {maker: name for name, site in sites.items() for maker in site.producers}
    reads: dict[str, list[str]] = {name: [] for name in watch.order}
    for name, site in sites.items():
        for tap in site.consumers:
            if tap.layer in reads:
                reads[tap.layer].append(name)
    return {
        name: Layer(name, makes.get(name), tuple(reads[name]), watch.follower(name), sites, network, writing)
        for name in watch.order
    }


class _Watch(TorchDispatchMode):
    """Follows one forward pass: which layers run, and which operators read what they make."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.order: list[str] = []
        self.made = WeakTensorKeyDictionary()  # output of a layer -> its name
        self.norms: dict[str, set[str]] = {}  # layer -> norms that read its output
        self.read_by: dict[str, set[str | None]] = {}  # norm -> layers whose output it reads; None: anything else
        self.others: set[str] = set()  # layers whose output something else reads
        self.within = False  # a norm that reads a layer's output

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.within:
            read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            self.others |= {self.made[t] for t in read if t in self.made}
        return func(*args, **(kwargs or {}))

    def run(self, x: Tensor) -> None:
        """The pass."""
        handles = []
        for name, module in self.network.named_modules():
            if isinstance(module, (*CONVS, nn.Linear)):
                handles.append(module.register_forward_hook(self._layer(name)))
            elif isinstance(module, NORMS) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(self._norm(name)))
                handles.append(module.register_forward_hook(self._after_norm))
        try:
            with self:
                self.network(x)
        finally:
            for handle in handles:
                handle.remove()

    def follower(self, layer: str) -> str | None:
        """The batch norm that reads what the layer makes, where nothing else does."""
        found = self.norms.get(layer, set()) if layer not in self.others else set()
        return next((norm for norm in found if len(found) == 1 and self.read_by[norm] == {layer}), None)

    def _layer(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def ran(module: nn.Module, args: Any, output: Tensor) -> None:
            if name not in self.order:
                self.order.append(name)
            self.made[output] = name

        return ran

    def _norm(self, name: str) -> Callable[[nn.Module, Any], None]:
        def starts(module: nn.Module, args: Any) -> None:
            layer: str | None = self.made.get(args[0]) if args and isinstance(args[0], Tensor) else None
            self.read_by.setdefault(name, set()).add(layer)
            if layer is not None:
                self.norms.setdefault(layer, set()).add(name)
                self.within = True

        return starts

    def _after_norm(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.within = False
