"""Which channels of a network's layers go together, by torch-pruning's dependency graph.

The only module that imports torch_pruning (one adapter under ``methods/`` aside).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import torch
from torch import nn

from bench.errors import ARCHITECTURE, RunFailed
from bench.parameters import copied, plain
from bench.slicing import CONVS, NORMS, channels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp
    from torch_pruning._helpers import _HybridIndex as Index
    from torch_pruning.dependency import index_mapping
    from torch_pruning.ops import OPTYPE

UPDATES = tuple(f"update_{kind}_index_mapping" for kind in ("concat", "split", "reshape", "unbind", "expand", "slice"))


def _only_one_node(update: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``update`` of one node, which then counts as elementwise where torch-pruning's arithmetic fails.

    A wrong site cannot follow from that: its gate would not equal its slice.
    """

    @wraps(update)
    def guarded(graph: Any, node: Any) -> None:
        with contextlib.suppress(TypeError, ZeroDivisionError, IndexError):
            update(graph, node)

    return guarded


for _name in UPDATES:  # torch-pruning calls them by these names and has no other way in; its version is pinned
    setattr(index_mapping, _name, _only_one_node(getattr(index_mapping, _name)))

STAND_IN = "stand_in"
"""Name of the layer inside a stand-in that is called in another way than a layer."""


@dataclass(frozen=True)
class Member:
    """Channels of one layer that depend on the units of a root layer.

    Attributes:
        layer: dotted name.
        side: ``out`` (it makes them), ``in`` (it reads them), ``both`` (they pass through), ``shared`` (they pass
            through a layer with one parameter for all of them), ``scale`` (it makes what they are multiplied by),
            ``parameter`` (a bare parameter).
        positions: channel indices, rising.
        units: the root's unit each of them belongs to.
    """

    layer: str
    side: str
    positions: list[int]
    units: list[int]

    @classmethod
    def of(cls, layer: str, side: str, pairs: Iterable[tuple[int, int]]) -> Member:
        """The member with these pairs of position and unit, each counted once."""
        ordered = sorted(set(pairs))
        return cls(layer, side, [position for position, _ in ordered], [unit for _, unit in ordered])


class Untraceable(Exception):
    """Why torch-pruning has no members for a layer."""


@dataclass(frozen=True)
class Trace:
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
        module = self._layers[layer]
        return self.graph.get_pruning_group(module, _prune_out(module), list(range(channels(module)[1])))

    def roots(self) -> list[str]:
        """Layers whose output channels may be units, in the network's order.

        Grouped convolutions follow the layer that feeds them, excitations what they scale.
        """
        return [
            name
            for name, module in self._layers.items()
            if isinstance(module, (*CONVS, nn.Linear))
            and module in self.graph.module2node
            and getattr(module, "groups", 1) == 1
            and module not in self._excitations
        ]

    def members(self, layer: str) -> list[Member]:
        """What goes with the output channels of ``layer``, itself first.

        The same walk through the graph as torch-pruning's own, except that what was seen is not walked again, and
        that it knows excitations.

        Raises:
            Untraceable: they are the network's output, or torch-pruning has no answer.
        """
        root = self.graph.module2node[self._layers[layer]]
        # No operation loses more channels than it has; where one is told to, the index mapping goes round in circles.
        most = 4 * max(max(channels(m)) for m in self._layers.values() if isinstance(m, (*CONVS, nn.Linear)))
        found: dict[tuple[Any, str], set[tuple[int, int]]] = {}  # by module and side
        seen: dict[tuple[Any, Any], set[tuple[int, int]]] = {}  # by node and what was done to it
        todo = [(root, _prune_out(root.module), [Index(i, i) for i in range(channels(root.module)[1])])]
        while todo:
            node, handler, indices = todo.pop()
            known = seen.setdefault((node, handler), set())
            fresh = [i for i in indices if (i.idx, i.root_idx) not in known]
            if not fresh:
                continue
            known.update((i.idx, i.root_idx) for i in fresh)
            if len(known) > most:
                raise Untraceable("torch-pruning cannot follow its units through this network")
            if node.type == OPTYPE.OUTPUT:
                raise Untraceable("it is the network's output")
            side = self._side(node, handler)
            if side:
                found.setdefault((node.module, side), set()).update((i.idx, i.root_idx) for i in fresh)
            for dep in node.dependencies:
                if dep.is_triggered_by(handler):
                    mapped = fresh
                    for mapping in dep.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                    todo.append((dep.target, dep.handler, mapped))
        return [Member.of(self._names[module], side, pairs) for (module, side), pairs in found.items()]

    def _side(self, node: Any, handler: Any) -> str:
        """What happens to a node's channels, see :class:`Member`; empty for operations without parameters."""
        module = node.module
        if node.type == OPTYPE.PARAMETER:
            return "parameter"
        if module not in self._names:
            return ""
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return "shared"
        if node.type == OPTYPE.DEPTHWISE_CONV or isinstance(module, (*NORMS, nn.PReLU)):
            return "both"
        if not self.graph.is_out_channel_pruning_fn(handler):
            return "in"
        return "scale" if module in self._excitations else "out"

    @cached_property
    def _excitations(self) -> set[Any]:
        """Layers whose output is multiplied with what it was computed from, as in squeeze-and-excitation blocks.

        Which of two factors is the excitation follows from the graph alone: the one that lies behind the other.
        Where neither does (gated linear units), both make the units.
        """
        found = set()
        for node in self.graph.module2node.values():
            for factor in node.inputs if "MulBackward" in str(node.module) else ():
                others = [other for other in node.inputs if other is not factor]
                if any(other in _behind(factor) for other in others):
                    found |= {n.module for n in _behind(factor, others) if isinstance(n.module, (*CONVS, nn.Linear))}
        return found

    @cached_property
    def _layers(self) -> dict[str, Any]:
        """Modules by their dotted names in the original network."""
        return {name.removesuffix(f".{STAND_IN}"): module for name, module in self.network.named_modules()}

    @cached_property
    def _names(self) -> dict[Any, str]:
        """The dotted name of each module and each bare parameter."""
        parameters = {parameter: str(name) for parameter, name in self.graph._param_to_name.items()}
        return parameters | {module: name for name, module in self._layers.items()}


def trace(network: nn.Module, shape: tuple[int, ...]) -> Trace:
    """Let torch-pruning trace a copy of ``network`` for inputs of ``shape`` (without the batch axis).

    Raises:
        RunFailed: torch-pruning cannot trace it.
    """
    traced = plain(copied(network).cpu().float())
    for name, module in list(traced.named_modules()):
        if hasattr(module, "stand_in"):
            parent = traced.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.stand_in())
    for parameter in traced.parameters():
        parameter.requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                traced, torch.zeros(2, *shape), verbose=False, customized_pruners={}, unwrapped_parameters=[]
            )
            index_mapping.update_index_mapping(graph)
    except Exception as error:
        raise RunFailed(
            f"torch-pruning cannot trace this network ({type(error).__name__}: {error}); "
            "it needs a forward that maps one image tensor to one logits tensor",
            blame=ARCHITECTURE,
        ) from error
    return Trace(traced, graph)


def _prune_out(module: Any) -> Any:
    return tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels


def _behind(node: Any, stop: list[Any] | None = None) -> set[Any]:
    """Nodes that ``node`` was computed from, itself included: all of them, or up to ``stop`` and the first layers."""
    found, todo = set(), [node]
    while todo:
        here = todo.pop()
        if here not in found and (stop is None or here not in stop):
            found.add(here)
            if stop is None or not isinstance(here.module, (*CONVS, nn.Linear)):
                todo += here.inputs
    return found
