"""The part of a network that one forward pass has finished with once a module has run, found by watching a pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from bench.errors import METHOD, RunFailed


@dataclass(frozen=True)
class Prefix:
    """What a forward pass is done with.

    Attributes:
        modules: dotted names of modules that run in it only, with all that is inside them.
        parameters: dotted names of the parameters that are used in it only.
    """

    modules: frozenset[str]
    parameters: frozenset[str]


def prefix(network: nn.Module, upto: str, x: Tensor) -> Prefix:
    """What ``network`` is done with, in a forward pass of ``x``, once module ``upto`` has run for the last time.

    A gradient for what runs later needs none for it: each later layer reads the image through the output of ``upto``.

    Raises:
        RunFailed: there is no such module or it does not run; it runs several times with another layer in between; a
            layer runs in parallel to it, or before and after its end; nothing would be left to train.
    """
    modules = dict(network.named_modules())
    names = dict(network.named_modules(remove_duplicate=False))
    if upto not in names:
        near = ", ".join(get_close_matches(upto, names, 3)) or ", ".join(list(names)[1:4])
        raise _refused(upto, f"the network has no module of this name; it has {near}")
    upto = next(name for name, module in modules.items() if module is names[upto])
    watch = _Watch(network, upto)
    with torch.no_grad(), watch.following(modules):
        watch.flows[x] = _Flow(image=True)
        network(x)
    if not watch.calls[upto]:
        raise _refused(upto, "it does not run in a forward pass")
    return watch.found(modules)


@dataclass(frozen=True)
class _Flow:
    """Of a tensor: whether it was computed from the image, from an output of ``upto``, and else which parameters."""

    image: bool = False
    behind: bool = False
    parameters: frozenset[str] = frozenset()


class _Watch(TorchDispatchMode):
    """Follows one forward pass; time is the number of operators so far."""

    def __init__(self, network: nn.Module, upto: str) -> None:
        super().__init__()
        self.upto, self.now = upto, 0
        self.names = {id(parameter): name for name, parameter in network.named_parameters()}
        self.flows = WeakTensorKeyDictionary()
        self.uses: dict[str, list[tuple[int, bool]]] = defaultdict(list)  # when it meets the image; behind upto?
        self.calls: dict[str, list[tuple[int, int]]] = defaultdict(list)  # start and end

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flows = [self._flow(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        image, behind = any(f.image for f in flows), any(f.behind for f in flows)
        parameters = frozenset[str]().union(*(f.parameters for f in flows))
        if image:
            for name in parameters:
                self.uses[name].append((self.now, behind))
        flow = _Flow(image, behind, frozenset() if image else parameters)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.flows[tensor] = flow
                if func._schema.is_mutable and tensor._base is not None:  # what is written to a view is in its base
                    self.flows[tensor._base] = flow
        self.now += 1
        return out

    def _flow(self, tensor: Tensor) -> _Flow:
        if tensor in self.flows:
            found: _Flow = self.flows[tensor]
            return found
        name = self.names.get(id(tensor))
        return _Flow(parameters=frozenset({name}) if name else frozenset())

    @contextmanager
    def following(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """Note the operators and the calls of ``modules`` in the block."""
        handles, started = [], defaultdict[str, list[int]](list)

        def start(name: str) -> Any:
            return lambda *_: started[name].append(self.now)

        def end(name: str) -> Any:
            def ended(module: nn.Module, args: Any, out: Any) -> None:
                self.calls[name].append((started[name].pop(), self.now))
                for tensor in tree_leaves(out) if name == self.upto else ():
                    if isinstance(tensor, Tensor):
                        self.flows[tensor] = _Flow(self._flow(tensor).image, behind=True)

            return ended

        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(start(name), prepend=True))
            handles.append(module.register_forward_hook(end(name)))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self, modules: dict[str, nn.Module]) -> Prefix:
        """The prefix, or why there is none."""
        calls = self.calls[self.upto]
        last = calls[-1][1]
        between = [(end, start) for (_, end), (start, _) in pairwise(calls)]
        for name, uses in self.uses.items():
            times = [time for time, _ in uses]
            if any(end <= time < start for end, start in between for time in times):
                raise self._refused(f"it runs {len(calls)} times, and {_owner(name)} runs in between")
            if min(times) < last <= max(times):
                raise self._refused(f"{_owner(name)} runs before its end and after it")
        late = {name: uses for name, uses in self.uses.items() if uses[0][0] >= last}
        for name, uses in late.items():
            if not all(behind for _, behind in uses):
                why = f"{_owner(name)} runs in parallel to it: name the module in which they join again, or one before"
                raise self._refused(why)
        over = [n for n in modules if n in self.calls and all(end <= last for _, end in self.calls[n])]
        for name, module in modules.items():
            spans = name in self.calls and min(self.calls[name])[1] <= last < max(self.calls[name])[1]
            if spans and any(True for _ in module.buffers(recurse=False)):
                raise self._refused(f"{name} runs before its end and after it")
        if not late or "" in over:
            raise self._refused("nothing would be left to train")
        inside = frozenset(n for n in modules if any(n == name or n.startswith(f"{name}.") for name in over))
        owned = {n for n in self.names.values() if n.rpartition(".")[0] in inside and n not in late}
        return Prefix(inside, frozenset(owned | (self.uses.keys() - late.keys())))

    def _refused(self, why: str) -> RunFailed:
        return _refused(self.upto, why)


def _refused(upto: str, why: str) -> RunFailed:
    return RunFailed(f"ctx.freeze('{upto}'): {why}", blame=METHOD)


def _owner(parameter: str) -> str:
    """The module that a parameter belongs to, or the parameter itself where that is the whole network."""
    return parameter.rpartition(".")[0] or parameter
