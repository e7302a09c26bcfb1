"""Finding blocks: modules that add branches to their input, and the proof that each can be removed.

A module is read (:mod:`bench.pruning.block_reading`), then used: with its branches gated to zero it must give its
input, or its own activation of it. The smallest such module is a block. Blocks that follow one another, with a stream
of one shape, are the units of a site.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import ARCHITECTURE, RunFailed
from bench.models.error_place import first_line
from bench.models.shared_parameters import shared
from bench.pruning.block_reading import NotABlock, is_one_tensor, read
from bench.pruning.block_sites import BlockSite
from bench.pruning.blocks import Block
from bench.pruning.channel_groups import BATCH
from bench.pruning.gates import Gates, gate_slice_difference, randomized_copy
from bench.pruning.sites import Site, Sites

SUMMARY = 250
"""Characters of the reasons in the error for a network without a block."""
EXACT = 1e-9
"""Largest difference between equal outputs in double precision, relative to the largest one."""


@dataclasses.dataclass
class Call:
    """How a module was called in a forward pass.

    Attributes:
        times: how often.
        plain: with one tensor, and it gave one of the same shape and type.
        shape: of what it gave.
        read: what it was given, ``[B, ...]``.
    """

    times: int = 0
    plain: bool = False
    shape: tuple[int, ...] = ()
    read: Tensor | None = None


def find_blocks(network: nn.Module, shape: tuple[int, ...]) -> tuple[Mapping[str, Site], dict[str, str]]:
    """The sites of blocks of ``network``, and the reason for each module that adds something and cannot be removed.

    Args:
        network: left as it was. It may declare groups of blocks in an attribute ``depth``: a dictionary from names of
            modules to the least number of them that stays; no others are then taken.
        shape: one input's shape.

    Raises:
        RunFailed: the network's forward fails, or it has no block.
    """
    probe = randomized_copy(network)
    x = torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    calls = _calls(probe, x)
    blocks: dict[str, Block] = {}
    rejected: dict[str, str] = {}
    for name, module in reversed(list(probe.named_modules())):  # what is inside of a module comes before it
        if not name or not any(True for _ in module.children()) or any(b.startswith(f"{name}.") for b in blocks):
            continue
        try:
            found = _block(module, name, calls.get(name, Call()), probe)
        except NotABlock as why:
            rejected[name] = str(why)
        else:
            blocks |= {name: found} if found else {}
    order = [block for name in calls if (block := blocks.get(name))]
    rejected |= _failing(probe, order, x)
    good = [block for block in order if block.name not in rejected]
    declared: Any = getattr(network, "depth", None)
    if isinstance(declared, dict):
        sites = _declared(declared, good, network, rejected)
    else:
        sites = [BlockSite.of(tuple(some), network) for _, some in groupby(good, lambda b: calls[b.name].shape)]
    if not sites:
        kinds = {reason: name for name, reason in rejected.items()}
        text = textwrap.shorten("; ".join(f"{name}: {r}" for r, name in kinds.items()), SUMMARY, placeholder=" ...")
        text = text or "no module of it adds something to its input"
        raise RunFailed(f"the network has no block that can be removed ({text}); use --units width", blame=ARCHITECTURE)
    return {site.name: site for site in sites}, rejected


def _declared(
    groups: Mapping[Any, Any], blocks: list[Block], network: nn.Module, rejected: dict[str, str]
) -> list[BlockSite]:
    """The sites that an architecture declares; what it names and is no block goes to ``rejected``."""
    known = {block.name: block for block in blocks}
    for name in (name for names in groups for name in names if name not in known):
        rejected.setdefault(name, "the architecture's depth names it, and it adds nothing to its input")
    found = [(tuple(known[name] for name in names if name in known), least) for names, least in groups.items()]
    return [BlockSite.of(some, network, int(least)) for some, least in found if some]


def _calls(network: nn.Module, x: Tensor) -> dict[str, Call]:
    """How each module with others inside it is called in a forward pass of ``x``, in the order of the calls."""
    calls: dict[str, Call] = {}
    handles = []

    def started(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = calls.setdefault(name, Call())
            call.times += 1
            call.read = args[0].clone() if is_one_tensor(args, kwargs) else None

        return note

    def ended(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            call = calls[name]
            call.shape = tuple(out.shape) if isinstance(out, Tensor) else ()
            call.plain = call.read is not None and call.shape == tuple(call.read.shape) and call.read.dtype == out.dtype

        return note

    for name, module in network.named_modules():
        if name and module._modules:
            handles.append(module.register_forward_pre_hook(started(name), with_kwargs=True))
            handles.append(module.register_forward_hook(ended(name)))
    try:
        with torch.no_grad():
            network(x)
    except Exception as error:
        raise RunFailed(f"its forward fails: {first_line(error)}", blame=ARCHITECTURE) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _block(module: nn.Module, name: str, call: Call, probe: nn.Module) -> Block | None:
    """``module`` as a block, None where it adds nothing; raises NotABlock where it adds otherwise."""
    if not call.times:
        return None
    try:
        found = read(module, name)
    except NotABlock:
        if call.plain:
            raise
        found = Block(name, ())  # it adds something
    if found is None:
        return None
    if call.times > 1:
        raise NotABlock(f"it runs {call.times} times in a forward pass")
    if call.read is None:
        raise NotABlock("it is called with something else than one tensor")
    if not call.plain:
        shapes = " to ".join(str(list(shape[1:])) for shape in (call.read.shape, call.shape))
        raise NotABlock(f"it changes the shape of its input, {shapes}")
    if len(call.read) != BATCH:
        raise NotABlock("the first axis of its input is not that of the images")
    if module._forward_hooks or module._forward_pre_hooks:
        raise NotABlock("it has a hook")
    _require_alone(module, name, probe)
    stays = found.removed_from(probe)
    noise = torch.randn(call.read.shape, dtype=call.read.dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for x in (noise, call.read):
            difference = _difference(_without_branches(module, found, x), stays(x.clone()))
            if difference > EXACT:
                raise NotABlock(f"without what it adds it does not give its input, the difference is {difference:.0e}")
        needed = not torch.equal(stays(call.read.clone()), call.read)
    return found if needed else dataclasses.replace(found, after="")


def _require_alone(module: nn.Module, name: str, probe: nn.Module) -> None:
    """Raise NotABlock where a tensor of ``module`` belongs to another one, too."""
    own = {t.data_ptr() for t in (*module.parameters(), *module.buffers()) if t.numel()}
    for other, parent in probe.named_modules(remove_duplicate=False):
        if other == name or other.startswith(f"{name}."):
            continue
        tensors = (*parent.named_parameters(recurse=False), *parent.named_buffers(recurse=False))
        for key, tensor in tensors:
            if tensor.numel() and tensor.data_ptr() in own:
                raise NotABlock(f"a tensor of it is also {other or 'the network'}'s {key}")


def _without_branches(module: nn.Module, block: Block, x: Tensor) -> Tensor:
    """What ``module`` makes of ``x`` with its branches gated to zero."""
    inside = BlockSite.of(
        (dataclasses.replace(block, ends=tuple(e[len(block.name) + 1 :] for e in block.ends)),), module
    )
    gates = Gates(module, Sites({block.name: inside}, {}, "inner"))
    gates.set({block.name: torch.zeros(1)})
    try:
        out: Tensor = module(x.clone())
    finally:
        gates.remove()
    return out


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def _failing(probe: nn.Module, blocks: list[Block], x: Tensor) -> dict[str, str]:
    """Blocks without which the network does not give what it gives when they are gated, with the reason.

    Random sets of them go, then all; by halving where that fails.
    """
    generator = torch.Generator().manual_seed(0)
    rejected: dict[str, str] = {}

    def check(names: Iterable[str]) -> str:
        some = [block for block in blocks if block.name in names]
        site = BlockSite.of(tuple(some), probe)
        sites = Sites({site.name: site}, {}, "inner")
        masks = {site.name: torch.tensor([kept[block.name] for block in some])}
        sliced = shared(probe)
        try:
            sites.slice(sliced, masks, in_place=True)
            difference = gate_slice_difference(probe, sliced, sites, masks, x, 1e-30)
        except Exception as error:
            return f"without it the network fails: {first_line(error)}"
        return (
            "" if difference <= EXACT else f"gate and slice disagree by {difference:.0e}: something else depends on it"
        )

    def search(names: list[str], good: list[str]) -> list[str]:
        """Adds the names that do not fail to ``good``, the others to ``rejected``."""
        why = check({*good, *names}) if names else ""
        if not why:
            return [*good, *names]
        if len(names) == 1:
            rejected[names[0]] = why
            return good
        half = len(names) // 2
        return search(names[half:], search(names[:half], good))

    for share in (0.5, 0.5, 0.0):
        drawn = torch.rand(len(blocks), generator=generator) < share
        kept = {block.name: bool(bit) for block, bit in zip(blocks, drawn, strict=True)}
        search([block.name for block in blocks if block.name not in rejected], [])
    return rejected
