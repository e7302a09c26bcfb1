"""Reading a module's own forward: does it add branches to its input, and what are their ends?"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from bench.models.torch_state import NORMS
from bench.pruning.blocks import RELU, Block
from bench.pruning.gates import is_activation

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS = (F.relu, torch.relu, "relu", "relu_")
DROPOUTS = (F.dropout, torch.dropout)


class NotABlock(Exception):
    """Why a module that adds something to its input is no block."""


class _Tracer(fx.Tracer):
    """Follows a module's own forward; the modules in it are called, not followed."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def read(module: nn.Module, name: str) -> Block | None:
    """``module``, called ``name``, as a block; None where its forward adds nothing, or cannot be followed.

    Raises:
        NotABlock: it adds something, but not branches that modules make to its input.
    """
    try:
        graph = _Tracer().trace(module, _defaults(module))
    except Exception:  # a forward that branches on values, or takes something else than tensors
        return None
    if not any(map(_adds, graph.nodes)):
        return None
    (output,) = graph.find_nodes(op="output")
    return _Reader(module, name, graph).block(output.args[0])


def _defaults(module: nn.Module) -> dict[str, Any]:
    """The arguments of a forward that have a default; it is called with one tensor."""
    given = list(inspect.signature(module.forward).parameters.values())[1:]
    return {p.name: p.default for p in given if p.default is not p.empty}


def _adds(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and node.target in ADDITIONS


class _Reader:
    """The graph of one module's forward."""

    def __init__(self, module: nn.Module, name: str, graph: fx.Graph) -> None:
        self.module, self.name, self.graph = module, name, graph
        self.input = next(iter(graph.find_nodes(op="placeholder")), None)

    def block(self, result: Any) -> Block:
        """The block whose output is the node ``result``."""
        if not isinstance(result, fx.Node):
            raise NotABlock("its output is no single tensor")
        after = self._activation(result)
        branches = self._branches(result.args[0] if after else result)
        ends = [self._end(branch) for branch in branches]
        norms = [norm for branch in branches if (norm := self._last_norm(branch))]
        after = after if after in ("", RELU) else self._full(after)
        return Block(self.name, tuple(map(self._full, ends)), tuple(map(self._full, norms)), after)

    def _full(self, name: str) -> str:
        return f"{self.name}.{name}"

    def _branches(self, node: Any) -> list[fx.Node]:
        """What is added to the input on the way to ``node``, in order."""
        found = list(self._sums(node))
        if not found or found[-1] is not None:
            raise NotABlock("the sum that it gives does not have its input, as it is, as a summand")
        return [branch for branch in found[-2::-1] if branch is not None]

    def _sums(self, node: Any) -> Iterator[fx.Node | None]:
        """The branches from ``node`` back to the input, then None if it is reached."""
        while isinstance(node, fx.Node):
            if node is self.input:
                yield None
                return
            if self._is_identity(node):
                node = node.args[0]
                continue
            if not _adds(node) or len(node.args) != 2:
                return
            one, two = node.args
            stream, branch = (one, two) if self._is_stream(one) else (two, one)
            if not isinstance(branch, fx.Node) or self._is_stream(branch):
                raise NotABlock("it adds something that no module of its own makes")
            yield branch
            node = stream

    def _is_stream(self, node: Any) -> bool:
        """Whether ``node`` is the input plus branches."""
        if not isinstance(node, fx.Node) or node is self.input:
            return node is self.input
        if self._is_identity(node):
            return self._is_stream(node.args[0])
        return _adds(node) and len(node.args) == 2 and any(map(self._is_stream, node.args))

    def _end(self, branch: fx.Node) -> str:
        """The module that makes a branch and nothing else."""
        if branch.op != "call_module":
            raise NotABlock(f"a branch that it adds is the output of no module, but of {_said(branch)}")
        same = [node for node in self.graph.nodes if node.op == "call_module" and node.target == branch.target]
        if any(set(map(_adds, node.users)) != {True} or len(node.users) != 1 for node in same):
            raise NotABlock(f"what {branch.target} gives is read by something else than the sum")
        return str(branch.target)

    def _activation(self, node: fx.Node) -> str:
        """The module that activates the sum, or RELU; empty where ``node`` is something else."""
        if not node.args or self._is_identity(node):
            return ""
        if node.op == "call_module" and is_activation(self.module.get_submodule(str(node.target))):
            return str(node.target)
        return RELU if node.op in ("call_function", "call_method") and node.target in RELUS else ""

    def _is_identity(self, node: fx.Node) -> bool:
        """Whether, while not training, ``node`` passes on what it is given."""
        if node.op == "call_module":
            return isinstance(self.module.get_submodule(str(node.target)), (nn.Identity, _DropoutNd))
        return node.op == "call_function" and node.target in DROPOUTS

    def _last_norm(self, node: Any) -> str:
        """The batch norm that a branch ends in, whatever drops out behind it; empty where it ends in something else."""
        while isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1:
            found, last = _last(self.module.get_submodule(str(node.target)), str(node.target))
            if isinstance(last, NORMS):
                return found
            if not _passes_on(last):
                return ""
            node = node.args[0]
        return ""


def _last(module: nn.Module, name: str) -> tuple[str, nn.Module]:
    """The module whose output is that of ``module`` while not training, and its dotted name."""
    for inner, child in reversed(_chain(module) or []):
        if not _passes_on(child):
            return _last(child, f"{name}.{inner}")
    return name, module


def _passes_on(module: nn.Module) -> bool:
    """Whether a module, while not training, gives what it is given."""
    if (chain := _chain(module)) is not None:
        return all(_passes_on(child) for _, child in chain)
    return isinstance(module, (nn.Identity, _DropoutNd)) or type(module).__name__ == "StochasticDepth"


def _chain(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """What a sequence runs, in order, with what it runs twice; None for another module."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return None
    return [each for each in module._modules.items() if each[1] is not None]


def _said(node: fx.Node) -> str:
    """What a node is, for a message."""
    if node.op == "get_attr":
        return f"the parameter {node.target}"
    return str(getattr(node.target, "__name__", node.target))


def is_one_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a module was called with one tensor and nothing else."""
    return len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
