"""Finding the sites of a network with torch-pruning's dependency graph, and checking each of them.

A candidate becomes a site only if gating its units where they are consumed gives the same output as slicing them
away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from bench.errors import ARCHITECTURE, RunFailed
from bench.gates import Tap
from bench.parameters import copied, uncut
from bench.sites import TOLERANCE, Site, Sites, gate_slice_difference
from bench.slicing import CONVS, NORMS, Cut, channels
from bench.tracing import Member, Trace, Untraceable, trace


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
    traced = trace(network, shape)
    candidates, rejected = {}, {}
    fixed = uncut(network)
    follows: set[str] = set()  # layers that an earlier one has in its group
    for name in (*traced.roots(), *_own(network)):
        if name in follows:
            continue
        try:
            members = _members(name, network, traced)
            follows |= {m.layer for m in members if m.side in ("out", "scale")}
            if name in getattr(network, "whole", ()):
                raise _Rejected("the architecture leaves it whole")
            _require_cuttable(members, fixed)
            candidates[name] = _site(members, network, coupling)
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
        raise no_site(network, rejected)
    return Sites(candidates, rejected, coupling)


def no_site(network: nn.Module, rejected: Mapping[str, str]) -> RunFailed:
    """The error for a network without any site."""
    reasons = "; ".join(f"{n}: {why}" for n, why in rejected.items())
    layers = sum(isinstance(m, (*CONVS, nn.Linear)) for m in network.modules())
    untraced = f"its {layers} convolution and linear layers are not on the path that autograd saw"
    reasons = reasons or (untraced if layers else "no convolution or linear layer")
    return RunFailed(f"the network has no site that can be pruned ({reasons})", blame=ARCHITECTURE)


class _Rejected(Exception):
    """Why a candidate is no site."""


def _require_cuttable(members: list[Member], fixed: Mapping[str, str]) -> None:
    """Raise _Rejected where a layer that loses units has a tensor which a slice cannot cut, see :func:`uncut`."""
    for member in members:
        if member.layer in fixed and member.side != "shared":
            owner = "its" if member.layer == members[0].layer else f"{member.layer}'s"
            raise _Rejected(f"{owner} {fixed[member.layer]}")


def _own(network: nn.Module) -> list[str]:
    """Layers inside modules that say themselves which of their channels make a unit (attention heads)."""
    return [f"{name}.{module.units()[0]}" for name, module in network.named_modules() if _has_units(module)]


def _has_units(module: Any) -> bool:
    return hasattr(module, "stand_in") and callable(getattr(module, "units", None))


def _members(name: str, network: nn.Module, traced: Trace) -> list[Member]:
    """All that goes with the units that the layer ``name`` makes.

    A grouped convolution cannot lose single channels, only whole groups: what a group reads together is then one
    unit, and what the group makes of it goes with it.
    """
    parent: Any = network.get_submodule(name.rpartition(".")[0])
    if _has_units(parent):
        return _heads(name.rpartition(".")[0], parent)

    def of(layer: str) -> list[Member]:
        try:
            return traced.members(layer)
        except Untraceable as why:
            raise _Rejected(str(why)) from why
        except Exception as error:
            raise _Rejected(f"torch-pruning fails on it ({type(error).__name__})") from error

    members = of(name)
    passed: set[str] = set()
    while reader := next((m for m in members if m.side == "in" and _groups(network, m.layer) > 1), None):
        conv: Any = network.get_submodule(reader.layer)
        if len(reader.positions) != conv.in_channels:
            raise _Rejected(f"{reader.layer} is a grouped convolution, whose groups would become unequal")
        passed.add(reader.layer)
        size = conv.in_channels // conv.groups
        read = [set(reader.units[at : at + size]) for at in range(0, conv.in_channels, size)]
        united = _united(read)
        made_by = {c: united[min(read[c * conv.groups // conv.out_channels])] for c in range(conv.out_channels)}
        found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for member, unit_of in (*((m, united) for m in members), *((m, made_by) for m in of(reader.layer))):
            through = member.layer in passed
            if not (through and member.side == "in"):
                side = "both" if through else member.side
                found[member.layer, side] += zip(member.positions, (unit_of[u] for u in member.units), strict=True)
        members = [Member.of(*key, pairs) for key, pairs in found.items()]
    return members


def _groups(network: nn.Module, layer: str) -> int:
    module = network.get_submodule(layer)
    return int(module.groups) if isinstance(module, CONVS) else 1


def _united(groups: list[set[int]]) -> dict[int, int]:
    """The new unit of each unit: those that a group reads together become one, in the old order."""
    first = {unit: unit for group in groups for unit in group}
    for group in groups:
        together = {first[unit] for unit in group}
        if len(together) > 1:
            first = {unit: min(together) if of in together else of for unit, of in first.items()}
    number = {of: k for k, of in enumerate(sorted(set(first.values())))}
    return {unit: number[of] for unit, of in first.items()}


def _heads(name: str, attention: Any) -> list[Member]:
    """The heads of an attention layer, as it describes them itself."""
    maker, reader, made_by, read_at = attention.units()
    everywhere = list(range(len(made_by))), list(range(len(read_at)))
    return [
        Member(f"{name}.{maker}", "out", everywhere[0], made_by),
        Member(f"{name}.{reader}", "in", everywhere[1], read_at),
    ]


def _site(members: list[Member], network: nn.Module, coupling: str) -> Site:
    n_units = len(set(members[0].units))
    producers, norms, consumers, cuts = [], [], [], {}
    for member in members:
        layer, side = member.layer, member.side
        if side == "shared":
            continue  # one slope for all units: nothing to slice
        if side == "parameter":
            raise _Rejected(f"its units also index the parameter {layer}, which a slice cannot follow")
        module: Any = network.get_submodule(layer)
        known = (*CONVS, *NORMS, nn.Linear, nn.PReLU)
        if not isinstance(module, known) and not hasattr(module, "slice_channels"):
            raise _Rejected(f"{layer} ({type(module).__name__}) depends on all its units at once")
        if side != "in" and len(set(member.positions)) != len(member.positions):
            raise _Rejected(f"{layer} uses a unit in two places")
        if len(set(Counter(member.units).values())) > 1:
            raise _Rejected(f"{layer} has more channels of one unit than of another")
        whole = side != "in" and len(member.positions) == channels(module)[1] and len(set(member.units)) == n_units
        if side in ("out", "scale") and not whole:
            raise _Rejected(f"only part of {layer}'s output belongs to it")
        if side == "out":
            producers.append(layer)
        if isinstance(module, NORMS) and whole:
            norms.append(layer)
        at, of = torch.tensor(member.positions), torch.tensor(member.units)
        side = "out" if side == "scale" else side
        cuts[layer, side] = Cut(layer, side, at, of)
        if side == "in":
            axis = -1 if isinstance(module, nn.Linear) else 1
            consumers.append(Tap(layer, axis, channels(module)[0], at, of))
    if coupling == "inner" and len(producers) > 1:
        raise _Rejected(f"{len(producers)} layers produce it together ({', '.join(producers)}); see --coupling full")
    if not consumers:
        raise _Rejected("nothing after it can lose its units: it makes the network's output")
    ordered = tuple(sorted(producers, key=[n for n, _ in network.named_modules()].index))
    kind: Literal["conv", "linear"] = "linear" if isinstance(network.get_submodule(ordered[0]), nn.Linear) else "conv"
    return Site(ordered[0], n_units, kind, ordered, tuple(norms), tuple(consumers), tuple(cuts.values()), network)


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


def shaken(network: nn.Module) -> nn.Module:
    """A copy in double precision and eval mode with random norms, biases and scales.

    Fresh norms are identities, fresh biases, scales and last layers often about zero, which would hide what depends
    on them.
    """
    probe, generator = copied(network).cpu().double().eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in probe.modules():
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if name in ("bias", "running_mean"):
                    tensor.uniform_(-0.5, 0.5, generator=generator)
                elif name == "running_var" or (
                    isinstance(tensor, nn.Parameter) and not isinstance(module, (*CONVS, nn.Linear))
                ):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                elif name == "weight" and not tensor.any():
                    tensor.normal_(generator=generator)
    return probe


def _disagreeing(network: nn.Module, shape: tuple[int, ...], sites: dict[str, Site], coupling: str) -> list[str]:
    """Sites whose gate does not equal their slice, by halving: one check when all is well."""
    probe, generator = shaken(network), torch.Generator().manual_seed(0)
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
            return gate_slice_difference(probe, chosen.slice(probe, masks), chosen, masks, x, 1e-30) <= TOLERANCE * 1e-3
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
