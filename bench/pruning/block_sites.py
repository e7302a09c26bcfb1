"""Sites of kind ``block``: their units are whole blocks. :mod:`bench.pruning.block_discovery` finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.hooks import RemovableHandle

from bench.errors import RunFailed
from bench.pruning.blocks import Block
from bench.pruning.sites import Site, Sites
from bench.pruning.slicing import CONVS, ChannelSlice
from bench.pruning.unit_groups import Affine

BlockObserver = Callable[[str, int, Tensor, Tensor], None]
"""Receives a site's name, a unit's index, and the block's input and output ``[B, ...]`` in a forward pass."""


@contextmanager
def watching(network: nn.Module, sites: Sites, observer: BlockObserver) -> Iterator[None]:
    """Within the block, each forward reports the input and the output of every block to ``observer``."""
    handles: list[RemovableHandle] = []
    read: dict[str, Tensor] = {}

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            read[name] = args[0].detach().clone()  # a block may change it in place

        return keep

    def after(site: str, unit: int, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def report(module: nn.Module, args: Any, out: Tensor) -> None:
            observer(site, unit, read.pop(name), out.detach())

        return report

    for site, found in sites.items():
        for unit, block in enumerate(found.blocks):
            module = network.get_submodule(block.name)
            handles.append(module.register_forward_pre_hook(before(block.name)))
            handles.append(module.register_forward_hook(after(site, unit, block.name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class BlockSite(Site):
    """A site whose units are blocks, one after another with a stream of one shape between them.

    It has no producers of its own, norms, consumers or cuts: a unit is a module and all that is in it.
    """

    @staticmethod
    def of(blocks: tuple[Block, ...], network: nn.Module, least: int = 1) -> BlockSite:
        """The site of these blocks, named after the first."""
        names = tuple(block.name for block in blocks)
        return BlockSite(names[0], len(blocks), "block", names, (), (), (), network, blocks=blocks, least=least)

    def branches(self) -> list[Tensor]:
        """For each unit all weights of its convolutions and linear layers, as one vector; differentiable."""
        found = []
        for block in self.blocks:
            layers = self.network.get_submodule(block.name).modules()
            weights = [layer.weight.flatten() for layer in layers if isinstance(layer, (*CONVS, nn.Linear))]
            found.append(torch.cat(weights) if weights else torch.zeros(1, device=self._device(block)))
        return found

    def weights(self) -> list[Tensor]:
        """:meth:`rows`, as one tensor for all producers."""
        return [self.rows()]

    def rows(self) -> Tensor:
        """All weights of each unit's branches, ``[n_units, most]``, padded with zeros; differentiable."""
        return pad_sequence(self.branches(), batch_first=True)

    def gamma(self) -> Tensor | None:
        """``|gamma|`` of the norms that the branches end in, summed; None where a branch ends in none with a scale."""
        sums = []
        for block in self.blocks:
            scales = [self.network.get_submodule(norm).weight for norm in self._last_norms(block)]
            if not scales or not all(isinstance(scale, Tensor) for scale in scales):
                return None
            sums.append(torch.stack([scale.abs().sum() for scale in scales if isinstance(scale, Tensor)]).sum())
        return torch.stack(sums)

    def affine(self) -> list[Affine]:
        """The batch norms that the branches end in, branch by branch, each ``[n_units, channels]``; empty without.

        Raises RunFailed where the norms of two blocks differ in more than their values.
        """
        of_blocks = [[self._affine(norm) for norm in self._last_norms(block)] for block in self.blocks]
        if not all(of_blocks):
            return []
        if len({tuple((len(n.gamma), n.mean is None, n.eps) for n in norms) for norms in of_blocks}) > 1:
            raise RunFailed(f"site {self.name}: its blocks end in norms of different size, statistics or eps")
        found = []
        for norms in zip(*of_blocks, strict=True):
            of_units = [None if t[0] is None else torch.stack(t) for t in zip(*(n[:4] for n in norms))]
            found.append(Affine._make([*of_units, norms[0].eps]))
        return found

    def fold_(self, factors: Tensor) -> None:
        """The norms that the branches end in take in a gate by ``factors`` ``[n_units]``."""
        self.scale_(factors, "makes", ("norm",))

    def unfoldable(self) -> str | None:
        """Why no gate can be folded into norms; None where one can."""
        return "a branch of it ends in no batch norm with a scale" if self.gamma() is None else None

    def _last_norms(self, block: Block) -> list[str]:
        """The batch norms that the branches of a block end in; none where a branch ends in something else."""
        return list(dict.fromkeys(block.norms)) if len(block.norms) == len(block.ends) else []

    def _of_makers(self, parts: Collection[str]) -> Iterator[tuple[Tensor, ChannelSlice]]:
        """Weights and biases of convolutions and linear layers in the blocks, and the norms that branches end in."""
        of_norms = {"weight": {"norm", "gamma"}, "bias": {"norm"}}
        for unit, block in enumerate(self.blocks):
            inside = self.network.get_submodule(block.name).named_modules(prefix=block.name)
            layers = [name for name, layer in inside if isinstance(layer, (*CONVS, nn.Linear))]
            wanted = [(name, each) for name in layers for each in ("weight", "bias") if each in parts]
            wanted += [(n, each) for n in self._last_norms(block) for each, by in of_norms.items() if by & {*parts}]
            for name, each in wanted:
                tensor: Any = getattr(self.network.get_submodule(name), each)
                if tensor is not None:
                    every = torch.arange(len(tensor))
                    yield tensor, ChannelSlice(name, "out", every, torch.full_like(every, unit))

    def effective_norm(self) -> Tensor:
        """l2 norm of each unit's weights: norms lie between them, so none rescales all."""
        return self.rows().norm(dim=1)

    def held(self, mask: Tensor) -> Iterator[tuple[Tensor, tuple[Any, ...]]]:
        """The parameters of blocks whose mask is False, whole."""
        for block, kept in zip(self.blocks, mask.tolist(), strict=True):
            if not kept:
                for name, parameter in self.network.named_parameters():
                    if block.holds(name.rpartition(".")[0]):
                        yield parameter, (...,)

    def _device(self, block: Block) -> torch.device:
        return next((p.device for p in self.network.get_submodule(block.name).parameters()), torch.device("cpu"))
