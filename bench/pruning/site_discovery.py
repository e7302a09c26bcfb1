"""Finding the sites of a network, and checking each of them.

What goes together is followed through a forward pass (:mod:`bench.pruning.channel_tracing`). A candidate becomes a
site only if gating its units where they are consumed gives the same output as slicing them away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from bench.errors import ARCHITECTURE, RunFailed
from bench.models.error_place import first_line, innermost_layer, place_in_network
from bench.models.shared_parameters import shared, uncut
from bench.models.torch_state import NORMS
from bench.pruning import own_units
from bench.pruning.channel_groups import OUTPUT, Member, Trace
from bench.pruning.channel_tracing import trace
from bench.pruning.gates import TOLERANCE, gate_slice_difference, randomized_copy
from bench.pruning.sites import Consumer, Site, Sites
from bench.pruning.slicing import CONVS, TRANSPOSED, ChannelSlice, Number, can_slice, channels, part

HEADS = re.compile(r"(?i)(?!.*(dim|size|width|channel)).*head")
"""Names of numbers that count the heads of attention."""
SUMMARY = 250
"""Characters of the reasons in the error for a network without a site."""


def find_sites(network: nn.Module, shape: tuple[int, ...], coupling: str = "inner", units: str = "width") -> Sites:
    """Find and check the sites of ``network`` for inputs of ``shape`` (without the batch axis).

    Args:
        network: any network whose forward maps images to logits; left as it was. Layers it names in an attribute
            ``whole`` keep their width, where a paper excludes them.
        shape: one input's shape.
        coupling: ``inner`` takes widths with a single producer, or with several none of which is computed from
            another, so residual streams stay whole; ``full`` also takes those.
        units: ``width`` finds channels, ``depth`` blocks, ``both`` both.

    Raises:
        RunFailed: the network's forward fails, or it has no site at all of what is asked for.
    """
    blocks, no_blocks = _blocks(network, shape) if units != "width" else ({}, {})
    if units == "depth":
        return Sites(dict(blocks), no_blocks, coupling)
    traced = trace(network, shape)
    sites, rejected = _checked(network, traced, shape, coupling, blocks)
    rejected |= no_blocks
    if all(site.blocks for site in sites.values()):
        more = _checked(network, traced, shape, "full")[0] if coupling == "inner" else {}
        raise no_site(network, rejected, sum(site.n_units for site in more.values()), len(more))
    return Sites(sites, rejected, coupling)


def no_site(network: nn.Module, rejected: Mapping[str, str], units: int = 0, sites: int = 0) -> NoSite:
    """The error for a network without any site: what helps first, then the reasons, each kind once.

    Args:
        network: without a site.
        rejected: candidate -> reason for the rejection.
        units: how many the other coupling has.
        sites: how many sites the other coupling has.
    """
    parts = [f"--coupling full has {sites} of {units:,} units"] if sites else []
    for alike in alike_reasons(network, rejected):
        parts.append(f"{alike[0]}: {rejected[alike[0]]}{f' ({len(alike) - 1} more like it)' if alike[1:] else ''}")
    if not rejected:
        layers = sum(isinstance(m, (*CONVS, nn.Linear)) for m in network.modules())
        unused = f"none of its {layers} convolution and linear layers is called in a forward pass"
        parts.append(unused if layers else "no convolution or linear layer")
    text = "; ".join(parts)
    text = text if len(text) <= SUMMARY else f"{text[:SUMMARY]}..."
    return NoSite(f"the network has no site that can be pruned ({text})", rejected, sites)


def alike_reasons(network: nn.Module, rejected: Mapping[str, str]) -> list[list[str]]:
    """Candidates whose reasons are of one kind, the most common kind first; that of the network's output last."""
    names = {name for name, _ in network.named_modules()}
    classes = {type(module).__name__ for module in network.modules()}  # which norm it is, say, makes another kind
    kinds: dict[str, list[str]] = {}
    for name, why in rejected.items():
        kind = re.sub(r"^\d+ layers|[\w.]+", lambda word: "" if word[0] in names or " " in word[0] else word[0], why)
        kind = re.sub(r"\((.*?)\)", lambda inside: inside[1] if inside[1] in classes else "", kind)
        kinds.setdefault(re.sub(r"\d+", "", kind), []).append(name)
    return sorted(kinds.values(), key=lambda names: (rejected[names[0]] == OUTPUT, -len(names)))


class _Rejected(Exception):
    """Why a candidate is no site."""


class NoSite(RunFailed):
    """A network without any site.

    Attributes:
        rejected: candidate -> reason for the rejection.
        sites: how many coupling full has where inner has none.
    """

    def __init__(self, message: str, rejected: Mapping[str, str], sites: int) -> None:
        super().__init__(message, ARCHITECTURE)
        self.rejected, self.sites = dict(rejected), sites


def _blocks(network: nn.Module, shape: tuple[int, ...]) -> tuple[Mapping[str, Site], dict[str, str]]:
    from bench.pruning.block_discovery import find_blocks  # it imports what few runs need

    return find_blocks(network, shape)


def _checked(
    network: nn.Module,
    traced: Trace,
    shape: tuple[int, ...],
    coupling: str,
    blocks: Mapping[str, Site] = MappingProxyType({}),
) -> tuple[dict[str, Site], dict[str, str]]:
    """The sites, those of ``blocks`` behind the others, and the reason for each rejected candidate."""
    candidates: dict[str, Site] = {}
    rejected: dict[str, str] = {}
    fixed = uncut(network)
    place = {name: k for k, (name, _) in enumerate(network.named_modules())}
    follows: set[str] = set()  # layers that an earlier one has in its group
    for name in (*traced.roots(), *own_units.declared(network)):
        if name in follows:
            continue
        try:
            members = _members(name, network, traced)
            follows |= {m.layer for m in members if m.side in ("out", "scale")}
            _require_free(name, network, traced)
            _require_cuttable(members, fixed)
            site = _site(members, network, place, traced, coupling)
            _require_own_numbers(site, candidates)
            if (name, "out") not in traced.sides:  # its units are declared, not followed
                _require_unclaimed(site, candidates)
            candidates[name] = site
        except _Rejected as why:
            rejected[name] = str(why)
    candidates |= blocks
    rejected |= _failing(network, shape, candidates, coupling)
    return {name: site for name, site in candidates.items() if name not in rejected}, rejected


def _require_free(name: str, network: nn.Module, traced: Trace) -> None:
    """Raise _Rejected where the architecture or the flow of units forbids to remove any."""
    if name in getattr(network, "whole", ()):
        raise _Rejected("the architecture leaves it whole")
    why = traced.fixed(name) if (name, "out") in traced.sides else None
    if why:
        raise _Rejected(why)


def _require_cuttable(members: list[Member], fixed: Mapping[str, str]) -> None:
    """Raise _Rejected where a layer that loses units has a tensor which a slice cannot cut, see :func:`uncut`."""
    for member in members:
        if member.layer in fixed:
            owner = "its" if member.layer == members[0].layer else f"{member.layer}'s"
            raise _Rejected(f"{owner} {fixed[member.layer]}")


def _require_unclaimed(site: Site, candidates: Mapping[str, Site]) -> None:
    """Raise _Rejected where another candidate cuts the same side of a layer."""
    mine = {(cut.layer, cut.side) for cut in site.cuts}
    for name, other in candidates.items():
        if any((cut.layer, cut.side) in mine for cut in other.cuts):
            raise _Rejected(f"shares channels with {name}")


def _require_own_numbers(site: Site, candidates: Mapping[str, Site]) -> None:
    """Raise _Rejected where a number counts the units of another candidate, too, which may keep another number."""
    for number in site.numbers:
        for name, other in candidates.items():
            if any((number.module, number.name) == (n.module, n.name) for n in other.numbers):
                raise _Rejected(f"{number.module}.{number.name} also counts the units of {name}")


def _members(name: str, network: nn.Module, traced: Trace) -> list[Member]:
    """All that goes with the units that the layer ``name`` makes."""
    if not own_units.has_units(network.get_submodule(name.rpartition(".")[0])):
        return traced.members(name)
    try:
        return own_units.members(name, network)
    except ValueError as error:
        raise _Rejected(str(error)) from error


def _site(members: list[Member], network: nn.Module, place: Mapping[str, int], traced: Trace, coupling: str) -> Site:
    n_units = len(set(members[0].units))
    producers, norms, consumers, cuts = [], [], [], {}
    for member in members:
        layer, side = member.layer, member.side
        module = part(network, layer)
        if not can_slice(module):
            raise _Rejected(f"{layer} ({type(module).__name__}) cannot lose channels: it has no slice_channels()")
        if isinstance(module, TRANSPOSED) and 1 < module.groups < min(channels(module)):
            raise _Rejected(f"{layer} is a transposed convolution with groups of several channels")
        if len(set(Counter(member.units).values())) > 1:
            grouped = next((m.layer for m in members if m.side == "both" and _groups(network, m.layer) > 1), None)
            if grouped:
                raise _Rejected(f"{grouped} is a grouped convolution, whose groups would become unequal")
            raise _Rejected(f"{layer} has more channels of one unit than of another")
        whole = side != "in" and len(member.positions) == channels(module)[1] and len(set(member.units)) == n_units
        if side in ("out", "scale") and not whole:
            why = traced.mixing(members[0].layer) if (members[0].layer, "out") in traced.sides else None
            raise _Rejected(why or f"only part of {layer}'s output belongs to it")
        if side == "out":
            producers.append(layer)
        if isinstance(module, NORMS) and whole:
            norms.append(layer)
        at, of = torch.tensor(member.positions), torch.tensor(member.units)
        side = "out" if side == "scale" else side
        cuts[layer, side] = ChannelSlice(layer, side, at, of)
        if side == "in":
            axis = -1 if isinstance(module, nn.Linear) else 1
            consumers.append(Consumer(layer, axis, channels(module)[0], at, of))
    if coupling == "inner" and _is_stream(producers, network, traced):
        raise _Rejected(f"{len(producers)} layers produce it together ({', '.join(producers)}); see --coupling full")
    if not consumers:
        raise _Rejected("no layer reads its units")
    ordered = tuple(sorted(producers, key=place.__getitem__))
    kind: Literal["conv", "linear"] = "linear" if isinstance(network.get_submodule(ordered[0]), nn.Linear) else "conv"
    own = [n for n in norms if traced.feeds[n] in [{p} for p in producers if p != members[0].layer]]
    norms = [n for n in norms if n not in own] + own[::-1]  # the order of the sum in gamma(), whose last bit it decides
    numbers = _numbers(network, [*ordered, *(tap.layer for tap in consumers)], n_units, consumers[0], traced)
    return Site(
        ordered[0],
        n_units,
        kind,
        ordered,
        tuple(norms),
        tuple(consumers),
        tuple(cuts.values()),
        network,
        numbers,
        other_macs=traced.other_macs(members[0].layer),
    )


def _is_stream(producers: list[str], network: nn.Module, traced: Trace) -> bool:
    """Whether one producer's output is added to what was computed from another's, or a shortcut has no weights."""
    if len(producers) == 1:
        return False
    weightless = any(not isinstance(network.get_submodule(p), (*CONVS, nn.Linear)) for p in producers)
    return weightless or any(traced.behind(p, q) for p in producers for q in producers if p != q)


def _groups(network: nn.Module, layer: str) -> int:
    module = network.get_submodule(layer)
    return int(module.groups) if isinstance(module, CONVS) else 1


def _numbers(network: nn.Module, layers: list[str], n_units: int, tap: Consumer, traced: Trace) -> tuple[Number, ...]:
    """Whole numbers in the module around ``layers`` that count the site's heads, or the channels of all of them."""
    if (layers[0], "out") not in traced.sides or not traced.is_attention(layers[0]):
        return ()
    parts = [layer.split(".")[:-1] for layer in layers]
    shared = 0
    while all(len(p) > shared and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    around, each = ".".join(parts[0][:shared]), len(tap.positions) // n_units
    found = []
    for name, value in vars(network.get_submodule(around)).items():
        if type(value) is int and value == n_units and HEADS.match(name):
            found.append(Number(around, name, 1))
        elif type(value) is int and value == n_units * each and each > 1:
            found.append(Number(around, name, each))
    return tuple(found)


def _failing(network: nn.Module, shape: tuple[int, ...], sites: dict[str, Site], coupling: str) -> dict[str, str]:
    """Sites whose gate does not equal their slice, with the reason: one check for each kind of mask when all is well.

    Otherwise by halving, or where the slice's forward fails, first those that cut a layer near to that place. A
    random half, the first half and the last half of the units are kept: code that splits channels at a fixed place
    takes some masks by chance.
    """
    probe, generator = randomized_copy(network), torch.Generator().manual_seed(0)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=generator)
    good: list[str] = []

    def draw(width: int, kind: str) -> Tensor:
        if kind == "first":
            return torch.arange(width) < (width + 1) // 2
        if kind == "last":
            return torch.arange(width) >= width // 2
        mask = torch.rand(width, generator=generator) < 0.5
        mask[int(torch.randint(width, (), generator=generator))] = True
        if width > 1 and mask.all():
            mask[0] = False
        return mask

    def check(names: list[str]) -> tuple[str, str]:
        """Why these sites fail together, and in which layer; nothing where they do not."""
        chosen = Sites({n: sites[n] for n in names}, {}, coupling)
        kept = chosen.settled({n: masks[n] for n in names})
        sliced = shared(probe)
        try:
            chosen.slice(sliced, kept, in_place=True)
            difference = gate_slice_difference(probe, sliced, chosen, kept, x, 1e-30)
        except Exception as error:
            layer, where = innermost_layer(error, sliced), place_in_network(error, sliced)
            return f"its slice fails{f' at {where}' if where else ''}: {first_line(error)}", layer
        if difference <= TOLERANCE * 1e-3:
            return "", ""
        return f"gate and slice disagree by {difference:.0e}: something else depends on these units", ""

    def search(names: list[str]) -> dict[str, str]:
        why, layer = check([*good, *names]) if names else ("", "")
        if not why:
            good.extend(names)
            return {}
        if len(names) == 1:
            return {names[0]: why}
        near = [n for n in names if any(cut.layer.startswith(layer) for cut in sites[n].cuts)]
        while layer and not near:
            layer = layer.rpartition(".")[0]
            near = [n for n in names if any(cut.layer.startswith(layer) for cut in sites[n].cuts)]
        first = near if 0 < len(near) < len(names) else names[: len(names) // 2]
        return search(first) | search([n for n in names if n not in first])

    rejected: dict[str, str] = {}
    for kind in ("random", "first", "last"):
        good.clear()
        masks = {name: draw(site.n_units, kind) for name, site in sites.items()}  # the same in each check of a search
        rejected |= search([name for name in sites if name not in rejected])
    return rejected
