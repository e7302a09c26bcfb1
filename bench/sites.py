"""Sites: the prunable widths of a network, found with torch-pruning's dependency graph and checked by us.

The only module that imports torch_pruning (one adapter under ``methods/`` aside). A candidate becomes a site
only if gating its units where they are consumed gives the same output as slicing them away.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import RunFailed
from bench.gates import Gates, Tap
from bench.modes import evaluating
from bench.slicing import CONVS, NORMS, Cut, channels, slice_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp
    from torch_pruning.ops import OPTYPE

TOLERANCE = 1e-4
"""Largest difference between gated and sliced output, relative to the output's own size where that exceeds 1."""


@dataclass(frozen=True)
class Site:
    """One prunable width: ``n_units`` filters, channels or neurons that leave together with all that belongs to them.

    Attributes:
        name: dotted name of the first layer that produces the units.
        n_units: how many there are.
        kind: ``conv`` or ``linear``.
        producers: layers whose output channels the units are.
        norms: batch norms over exactly these units.
        consumers: where the units are read, and at which input positions.
        cuts: everything a slice removes.
    """

    name: str
    n_units: int
    kind: Literal["conv", "linear"]
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    consumers: tuple[Tap, ...]
    cuts: tuple[Cut, ...]
    network: nn.Module = field(repr=False, compare=False)

    def rows(self) -> Tensor:
        """Weights that produce each unit, ``[n_units, fan_in]`` (all producers side by side); differentiable."""
        return torch.cat([weight.flatten(1) for weight in self.weights()], dim=1)

    def weights(self) -> list[Tensor]:
        """The producers' weights themselves, each ``[n_units, inputs, ...]``."""
        makers = [self.network.get_submodule(p) for p in self.producers]
        return [m.weight for m in makers if isinstance(m, (*CONVS, nn.Linear))]  # a padded shortcut has none

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
        sizes = [s.abs() for s in scales if isinstance(s, Tensor)]  # a norm may have no scale
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
        by their mean; without norms it is the plain l2 norm.
        """
        factors = []
        for name in self.norms:
            norm: Any = self.network.get_submodule(name)
            if norm.running_var is not None:
                gain = 1.0 if norm.weight is None else norm.weight.abs()
                factors.append(gain / (norm.running_var + norm.eps).sqrt())
        size = self.rows().norm(dim=1)
        return size * torch.stack(factors).mean(dim=0) if factors else size

    def unit_parameters(self) -> Iterator[tuple[nn.Parameter, Cut]]:
        """Parameters whose rows belong to single units: weights and biases that make them, their norms' scales."""
        for cut in self.cuts:
            if cut.side != "in":
                for parameter in self.network.get_submodule(cut.layer).parameters(recurse=False):
                    yield parameter, cut


class Sites(Mapping[str, Site]):
    """The sites of one network by name, and why the other candidates are none."""

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

    def cuts(self, masks: Mapping[str, Tensor]) -> list[tuple[Cut, Tensor]]:
        """What ``masks`` (site -> bool ``[n_units]``, True keeps) remove, as :func:`slice_network` takes it."""
        return [(cut, masks[name]) for name, site in self.items() for cut in site.cuts]

    def slice(self, network: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
        """A physically smaller copy of ``network`` without the units whose mask is False."""
        return slice_network(network, self.cuts(masks))

    def on(self, network: nn.Module) -> Sites:
        """The same sites of another network of the same architecture."""
        moved = {name: dataclasses.replace(site, network=network) for name, site in self.items()}
        return Sites(moved, self.rejected, self.coupling)

    def sliced(self, masks: Mapping[str, Tensor], network: nn.Module) -> Sites:
        """These sites as they are on ``network``, which is :meth:`slice` of theirs by ``masks``."""
        gone: dict[tuple[str, bool], list[int]] = defaultdict(list)  # by layer and whether at its input
        for cut, mask in self.cuts(masks):
            gone[cut.layer, cut.side == "in"] += cut.positions[~mask[cut.units]].tolist()

        def moved(part: Cut | Tap, at_input: bool, keep: Tensor) -> dict[str, Any]:
            stays = keep[part.units]
            before = torch.tensor(sorted(gone[part.layer, at_input]), dtype=torch.int64)
            at = part.positions[stays]
            return {
                "positions": at - torch.searchsorted(before, at),
                "units": (keep.cumsum(0) - 1)[part.units[stays]],
            }

        found = {}
        for name, site in self.items():
            keep = masks[name].cpu()
            cuts = [dataclasses.replace(c, **moved(c, c.side == "in", keep)) for c in site.cuts]
            consumers = [
                dataclasses.replace(t, width=t.width - len(gone[t.layer, True]), **moved(t, True, keep))
                for t in site.consumers
            ]
            found[name] = dataclasses.replace(
                site, n_units=int(keep.sum()), network=network, cuts=tuple(cuts), consumers=tuple(consumers)
            )
        return Sites(found, self.rejected, self.coupling)


@dataclass(frozen=True)
class Trace:
    """A copy of a network with torch-pruning's dependency graph of it.

    Attributes:
        network: the copy: eval mode, float32, on the CPU, every parameter trainable, a padded shortcut as the
            convolution it equals. Layers are named as in the original.
        graph: which channels of its layers go together.
    """

    network: nn.Module
    graph: tp.DependencyGraph

    def group(self, layer: str) -> tp.Group:
        """All that depends on the output channels of ``layer``, itself first; index ``u`` is its channel ``u``."""
        module = self.network.get_submodule(layer)
        prune = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        return self.graph.get_pruning_group(module, prune, list(range(channels(module)[1])))


def trace(network: nn.Module, shape: tuple[int, ...]) -> Trace:
    """Let torch-pruning trace a copy of ``network`` for inputs of ``shape`` (without the batch axis).

    Raises:
        RunFailed: torch-pruning cannot trace it.
    """
    traced = copy.deepcopy(network).cpu().float().eval()
    for name, module in list(traced.named_modules()):
        if hasattr(module, "as_conv"):
            parent = traced.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.as_conv())
    for parameter in traced.parameters():
        parameter.requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                traced, torch.zeros(2, *shape), verbose=False, customized_pruners={}, unwrapped_parameters=[]
            )
    except Exception as error:
        raise RunFailed(
            f"torch-pruning cannot trace this network ({type(error).__name__}: {error}); "
            "it needs a forward that maps one image tensor to one logits tensor"
        ) from error
    return Trace(traced, graph)


def find_sites(network: nn.Module, shape: tuple[int, ...], coupling: str = "inner") -> Sites:
    """Find and check the sites of ``network`` for inputs of ``shape`` (without the batch axis).

    Args:
        network: any network torch-pruning can trace; left as it was. Layers it names in an attribute ``whole``
            keep their width, where a paper excludes them.
        shape: one input's shape.
        coupling: ``inner`` takes widths with a single producer, so residual streams stay whole; ``full`` also
            takes widths that several layers produce together.

    Raises:
        RunFailed: torch-pruning cannot trace the network, or it has no site at all.
    """
    candidates, rejected = {}, {}
    for name, found in _groups(network, shape).items():
        try:
            if name in getattr(network, "whole", ()):
                raise _Rejected("the architecture leaves it whole")
            candidates[name] = _site(name, found, network, coupling)
        except _Rejected as why:
            rejected[name] = str(why)
    shared = _shared_positions(candidates)
    for name in shared:
        rejected[name] = shared[name]
        del candidates[name]
    for name in _disagreeing(network, shape, candidates, coupling):
        rejected[name] = "gate and slice disagree: something else depends on these units (a norm over them, say)"
        del candidates[name]
    if not candidates:
        reasons = "; ".join(f"{n}: {why}" for n, why in rejected.items())
        layers = sum(isinstance(m, (*CONVS, nn.Linear)) for m in network.modules())
        untraced = f"its {layers} convolution and linear layers are not on the path that autograd saw"
        reasons = reasons or (untraced if layers else "no convolution or linear layer")
        raise RunFailed(f"the network has no site that can be pruned ({reasons})")
    return Sites(candidates, rejected, coupling)


@torch.no_grad()
def gate_slice_difference(
    network: nn.Module, sliced: nn.Module, sites: Sites, masks: Mapping[str, Tensor], x: Tensor
) -> float:
    """Largest difference between the outputs of the gated ``network`` and the ``sliced`` one, both in eval mode.

    Absolute, divided by the largest output where that exceeds 1.
    """
    gates = Gates(network, sites)
    with evaluating(network, sliced):
        try:
            gates.set({name: mask.to(x.dtype) for name, mask in masks.items()})
            gated = network(x)
        finally:
            gates.remove()
        return float((gated - sliced(x)).abs().max() / gated.abs().max().clamp(min=1))


class _Rejected(Exception):
    """Why a candidate is no site."""


_Member = tuple[str, str, list[int], list[int]]  # layer, side, positions, units


def _groups(network: nn.Module, shape: tuple[int, ...]) -> dict[str, list[_Member] | str]:
    """Root layer -> members, or the reason there are none, as torch-pruning sees the network."""
    traced = trace(network, shape)
    graph = traced.graph
    names = {module: name for name, module in traced.network.named_modules()}
    groups: dict[str, list[_Member] | str] = {}
    seen: set[str] = set()
    for name, module in traced.network.named_modules():
        if not isinstance(module, (*CONVS, nn.Linear)) or name in seen or module not in graph.module2node:
            continue
        if isinstance(module, CONVS) and module.groups > 1:
            continue  # depthwise layers follow their producer; other grouped ones are rejected as members
        try:
            group = traced.group(name)
        except Exception as error:
            groups[name] = f"torch-pruning fails on it ({type(error).__name__})"
            continue
        members: list[_Member] = []
        for item in group:
            kind, target = item.dep.target.type, item.dep.target.module
            if kind == OPTYPE.OUTPUT:
                members = []
                break
            if target in names:
                if isinstance(target, nn.PReLU) and target.num_parameters == 1:
                    side = "shared"  # one slope for all units: nothing to slice
                elif kind == OPTYPE.DEPTHWISE_CONV or isinstance(target, (*NORMS, nn.PReLU)):
                    side = "both"
                else:
                    side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
                members.append((names[target], side, list(item.idxs), list(item.root_idxs)))
                if side == "out":
                    seen.add(names[target])
            elif kind == OPTYPE.PARAMETER:
                members.append((graph._param_to_name.get(target, "a bare parameter"), "parameter", [], []))
        groups[name] = members or "it is the network's output"
    return groups


def _site(name: str, members: list[_Member] | str, network: nn.Module, coupling: str) -> Site:
    if isinstance(members, str):
        raise _Rejected(members)
    root = network.get_submodule(name)
    n_units = channels(root)[1]
    everything = list(range(n_units))
    producers, norms, consumers, cuts = [], [], [], {}
    for layer, side, positions, units in members:
        if side == "shared":
            continue
        if side == "parameter":
            raise _Rejected(f"its units also index the parameter {layer}, which a slice cannot follow")
        module = network.get_submodule(layer)
        known = (*CONVS, *NORMS, nn.Linear, nn.PReLU)
        if not isinstance(module, known) and not hasattr(module, "slice_channels"):
            raise _Rejected(f"{layer} ({type(module).__name__}) depends on all its units at once")
        if isinstance(module, CONVS) and module.groups > 1 and side != "both":
            raise _Rejected(f"{layer} is a grouped convolution, whose groups would become unequal")
        if side in ("out", "both") and len(set(positions)) != len(positions):
            raise _Rejected(f"{layer} uses a unit in two places")
        if side == "out":
            if sorted(positions) != everything or positions != units:
                raise _Rejected(f"only part of {layer}'s output belongs to it")
            producers.append(layer)
        if isinstance(module, NORMS) and positions == units == everything and module.num_features == n_units:
            norms.append(layer)
        at, of = torch.tensor(positions), torch.tensor(units)
        cuts[layer, side] = Cut(layer, side, at, of)
        if side == "in":
            axis = -1 if isinstance(module, nn.Linear) else 1
            consumers.append(Tap(layer, axis, channels(module)[0], at, of))
    if coupling == "inner" and len(producers) > 1:
        raise _Rejected(f"{len(producers)} layers produce it together ({', '.join(producers)}); see --coupling full")
    if not consumers:
        raise _Rejected("nothing after it can lose its units: it makes the network's output")
    kind: Literal["conv", "linear"] = "linear" if isinstance(root, nn.Linear) else "conv"
    ordered = tuple(sorted(producers, key=[n for n, _ in network.named_modules()].index))
    return Site(
        ordered[0],
        n_units,
        kind,
        ordered,
        tuple(norms),
        tuple(consumers),
        tuple(cuts.values()),
        network,
    )


def _shared_positions(sites: Mapping[str, Site]) -> dict[str, str]:
    """Sites that claim a channel another site already has."""
    owner: dict[tuple[str, str, int], str] = {}
    rejected = {}
    for name, site in sites.items():
        claims = [(cut.layer, cut.side, int(p)) for cut in site.cuts for p in cut.positions]
        other = next((owner[c] for c in claims if c in owner), None)
        if other:
            rejected[name] = f"shares channels with {other}"
        else:
            owner.update(dict.fromkeys(claims, name))
    return rejected


def _disagreeing(network: nn.Module, shape: tuple[int, ...], sites: dict[str, Site], coupling: str) -> list[str]:
    """Sites whose gate does not equal their slice, by halving: one check when all is well."""
    probe = copy.deepcopy(network).cpu().double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh norms are identities and fresh biases often zero, which would hide a leak
        for module in probe.modules():
            if isinstance(module, NORMS):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.5, 1.5, generator=generator)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.uniform_(-0.5, 0.5, generator=generator)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=generator)

    def agree(names: list[str]) -> bool:
        chosen = Sites({n: sites[n] for n in names}, {}, coupling)
        masks = {}
        for name, width in chosen.widths.items():
            masks[name] = torch.rand(width, generator=generator) < 0.5
            masks[name][int(torch.randint(width, (), generator=generator))] = True
            if width > 1 and masks[name].all():
                masks[name][0] = False
        try:
            return gate_slice_difference(probe, chosen.slice(probe, masks), chosen, masks, x) <= TOLERANCE * 1e-3
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False

    def search(names: list[str]) -> list[str]:
        if not names or agree(names):
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        bad = search(names[:half]) + search(names[half:])
        return bad or names

    return search(list(sites))
