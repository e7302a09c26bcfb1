"""Torch-pruning's own dependency graph of a network, for its importances. Sites are found without it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import torch
from torch import nn

from bench.errors import RunFailed
from bench.models.shared_parameters import copied, plain
from bench.pruning.channel_groups import layer_name
from bench.pruning.channel_tracing import with_stand_ins
from bench.pruning.slicing import channels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp
    from torch_pruning.dependency import index_mapping

UPDATES = tuple(f"update_{kind}_index_mapping" for kind in ("concat", "split", "reshape", "unbind", "expand", "slice"))


def _only_one_node(update: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``update`` of one node, which then counts as elementwise where torch-pruning's arithmetic fails."""

    @wraps(update)
    def guarded(graph: Any, node: Any) -> None:
        with contextlib.suppress(TypeError, ZeroDivisionError, IndexError):
            update(graph, node)

    return guarded


for _name in UPDATES:  # torch-pruning calls them by these names and has no other way in; its version is pinned
    setattr(index_mapping, _name, _only_one_node(getattr(index_mapping, _name)))


@dataclass(frozen=True)
class Graph:
    """A copy of a network with torch-pruning's dependency graph of it.

    Attributes:
        network: the copy: eval mode, float32, on the CPU, every parameter trainable, modules that offer a
            ``stand_in()`` replaced by it. Layers are named as in the original.
        graph: which channels of its layers go together.
    """

    network: nn.Module
    graph: tp.DependencyGraph

    def group(self, layer: str) -> tp.Group:
        """All that depends on the output channels of ``layer``, itself first; index ``u`` is its channel ``u``."""
        module = self.layers[layer]
        prune = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of deep networks each time
            return self.graph.get_pruning_group(module, prune, list(range(channels(module)[1])))

    @cached_property
    def layers(self) -> dict[str, Any]:
        """Modules by their dotted names in the original network."""
        return {layer_name(name): module for name, module in self.network.named_modules()}


def graph_of(network: nn.Module, shape: tuple[int, ...]) -> Graph:
    """Let torch-pruning trace a copy of ``network`` for inputs of ``shape`` (without the batch axis).

    Raises:
        RunFailed: torch-pruning cannot trace it.
    """
    traced = with_stand_ins(plain(copied(network).cpu().float()))
    for parameter in traced.parameters():
        parameter.requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                traced, torch.zeros(2, *shape), verbose=False, customized_pruners={}, unwrapped_parameters=[]
            )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise RunFailed(f"torch-pruning cannot trace this network ({why})") from error
    return Graph(traced, graph)
