"""What is known of a first dense network whatever its weights: sites, costs, channels. Found once for a structure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from bench.deploy.inputs import Inputs
from bench.deploy.saved_file import Shape, shapes_of
from bench.errors import UsageError
from bench.measure import flops
from bench.models.error_place import first_line
from bench.models.shared_parameters import copied
from bench.pruning.cost_model import CostModel
from bench.pruning.site_discovery import NoSite, alike_reasons, find_sites, no_site
from bench.pruning.sites import Sites
from bench.pruning.slicing import channels, part
from bench.spec.digest import digest
from bench.spec.spec import Budget
from bench.training.checkpoint import weight_bytes

TRAINING_BATCH = 4
KEPT = 8
"""Structures that are remembered."""


@dataclass(frozen=True)
class Known:
    """What a first dense network has.

    Attributes:
        sites: bound to no network.
        costs: at any widths.
        cost: of the dense network, see :func:`cost_of`.
        channels: layer -> input and output channels, of layers that can lose some.
        whole: parameter or buffer -> its shape.
        shape: of one input.
        inputs: what lies where in it, where there are several.
    """

    sites: Sites
    costs: CostModel
    cost: Mapping[str, Any]
    channels: Mapping[str, tuple[int, int]]
    whole: Mapping[str, tuple[int, ...]]
    shape: tuple[int, ...]
    inputs: Inputs | None = None

    def cut(self, masks: Mapping[str, Tensor]) -> Shape:
        """How the network that ``masks`` (site -> bool ``[n_units]``) leave is made of the dense one."""
        gone = self.sites.removed(masks)
        kept: dict[str, dict[str, Tensor]] = {}
        for piece, mask in self.sites.cuts(masks):
            sides = kept.setdefault(piece.layer, {})
            n_in, n_out = self.channels[piece.layer]
            stays = sides.setdefault(piece.side, piece.positions.new_ones(n_in if piece.side == "in" else n_out).bool())
            stays[piece.positions[~mask[piece.units]]] = False
        return Shape(self.shape, self.whole, kept, tuple(self.sites.numbers(masks)), self.inputs, tuple(gone))

    def require(self, costs: CostModel, budget: Budget, asked: str, full: Callable[[], Known] | None = None) -> None:
        """Raise UsageError where the units that every site keeps already cost more than the budget.

        Args:
            costs: of the network, with the sites that a method exempts.
            budget: as it is asked for.
            asked: the same as a text.
            full: what is known with coupling ``full``, which may reach less.
        """
        least = costs.least_share(budget)
        if round(least * costs.whole(budget)) <= costs.allowed(budget):
            return
        sites, floors = len(set(costs.names) - costs.exempt), costs.floors(budget)
        units = "one unit" if budget.min_keep == 1 else f"{budget.min_keep} units"
        steps = f", rounded up to {budget.step} channels," if budget.step > 1 else ""
        stay = sum(floors[name] for name in costs.blocks)
        parts = [f"{units} in each of the {sites} sites{steps}"] if sites else []
        parts += [f"all of the exempt {', '.join(sorted(costs.exempt))}"] if costs.exempt else []
        parts += [f"{stay} of the {sum(map(len, costs.blocks.values()))} blocks"] if stay else []
        verb = "costs" if len(parts) == 1 and sites and budget.min_keep == 1 else "cost"
        fine = costs.finer(budget)
        less = f"; round_to=1 reaches {fine:.2g}" if fine is not None else ""
        reached = full().costs.least_share(budget) if full and not less else least
        less = f"; coupling='full' reaches {reached:.2g}" if reached < least else less
        raise UsageError(f"{asked} cannot be met: {' and '.join(parts)} already {verb} {least:.2g}{less}")


def cost_of(network: nn.Module, macs: Mapping[str, int]) -> dict[str, Any]:
    """``macs``, ``by_operator``, ``params`` and ``bytes`` of a network whose ``macs`` were counted, by operator."""
    return {
        "macs": sum(macs.values()),
        "by_operator": dict(macs),
        "params": flops.parameters(network),
        "bytes": weight_bytes(network),
    }


PLAIN = (bool, int, float, str, tuple, type(None))
OF_MODULES = set(vars(nn.Module()))
"""Attributes that every module has."""
_known: OrderedDict[Any, Known] = OrderedDict()


def known_of(work: nn.Module, shape: tuple[int, ...], inputs: Inputs | None, coupling: str, units: str) -> Known:
    """What is known of ``work``; raises UsageError where it has no site."""
    key = _structure(work), shape, inputs, coupling, units
    if key not in _known:
        _known[key] = _found(work, shape, inputs, coupling, units)
        while len(_known) > KEPT:
            _known.popitem(last=False)
    _known.move_to_end(key)
    return _known[key]


def _structure(network: nn.Module) -> tuple[tuple[Any, ...], str, str]:
    """Whatever may change what :func:`known_of` finds: code, plain settings with sizes of tensors, other attributes.

    The text of another attribute may name a place in memory: then nothing that is known is found again.
    """
    code: list[Any] = []
    settings, others = [], []
    for name, module in network.named_modules():
        own = {key: value for key, value in sorted(vars(module).items()) if key not in OF_MODULES}
        functions = {key: value for key, value in own.items() if isinstance(value, FunctionType)}
        plain = {key: repr(value) for key, value in own.items() if isinstance(value, PLAIN)}
        code += [type(module).forward, *functions.values()]
        code += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        settings.append([name, plain, list(functions)])
        rest = {key: value for key, value in own.items() if key not in functions and key not in plain}
        others.append({key: list(v.shape) if isinstance(v, Tensor) else repr(v) for key, v in rest.items()})
    sizes = {name: [list(t.shape), str(t.dtype)] for name, t in network.state_dict().items()}
    return tuple(code), digest([str(network), settings, sizes]), digest(others)


def structure_sha256(network: nn.Module) -> str:
    """Hash of what decides how long a network takes: its modules, their code, sizes of their tensors."""
    code, settings, _ = _structure(network)
    parts = [function.__code__ for function in code if hasattr(function, "__code__")]
    constants = [[repr(value) for value in part.co_consts if isinstance(value, PLAIN)] for part in parts]
    return digest([settings, [[part.co_code.hex(), *part.co_names] for part in parts], constants])


def _found(work: nn.Module, shape: tuple[int, ...], inputs: Inputs | None, coupling: str, units: str) -> Known:
    try:
        sites = trainable(work, find_sites(work, shape, coupling, units), shape)
    except NoSite as error:
        raise UsageError(no_exact_site(work, error)) from error
    costs = CostModel(work, sites, shape)
    return known_from(work, sites, costs, cost_of(work, costs.by_operator), shape, inputs)


def known_from(
    work: nn.Module,
    sites: Sites,
    costs: CostModel,
    cost: Mapping[str, Any],
    shape: tuple[int, ...],
    inputs: Inputs | None = None,
) -> Known:
    """What is known of ``work``, whose sites and costs were found before."""
    layers = {cut.layer for site in sites.values() for cut in site.cuts}
    of_layers = {layer: channels(part(work, layer)) for layer in layers}
    return Known(sites.bind(nn.Identity()), costs, cost, of_layers, shapes_of(work), shape, inputs)


def trainable(work: nn.Module, sites: Sites, shape: tuple[int, ...]) -> Sites:
    """``sites`` without those whose slice fails in training mode, where a layer that only training uses reads them."""
    device = next(work.parameters()).device

    def error_of(network: nn.Module) -> Exception | None:
        x = torch.randn(TRAINING_BATCH, *shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                network.train()(x.to(device, next(work.parameters()).dtype))
        except Exception as error:  # whatever a network's own code raises
            return error
        return None

    def failing(names: list[str]) -> dict[str, str]:
        some = Sites({name: sites[name] for name in names}, {}, coupling=sites.coupling)
        masks = {name: torch.arange(width) < (width + 1) // 2 for name, width in some.widths.items()}
        error = error_of(some.slice(work, masks))
        if error is None:
            return {}
        if len(names) == 1:
            return {names[0]: f"a layer that only training uses reads it: {first_line(error)}"}
        half = len(names) // 2
        return {**failing(names[:half]), **failing(names[half:])} or dict.fromkeys(names, first_line(error))

    if error_of(copied(work)) is not None:  # it wants more than images in training
        return sites
    bad = failing(list(sites))
    left = {name: site for name, site in sites.items() if name not in bad}
    if not left:
        raise no_site(work, bad)
    return Sites(left, {**sites.rejected, **bad}, sites.coupling)


def no_exact_site(network: nn.Module, error: NoSite) -> str:
    """The message for a network without any site: what helps, then each kind of reason with how many layers it has."""
    parts = [f"coupling='full' has {error.sites} sites"] if error.sites else []
    for alike in alike_reasons(network, error.rejected):
        parts.append(f"{len(alike)} layer{'s' * (len(alike) != 1)}: {error.rejected[alike[0]]}")
    return f"no exact site: {'; '.join(parts) or 'no convolution or linear layer'}"
