"""Which channels of a network's layers go together: units followed through one forward pass.

Every channel that a layer makes is a label of its own (see :mod:`bench.pruning.channel_labels`). A layer that reads
channels says which labels lie at which of them; one that passes channels on (batch norm, grouped convolution) does
that, too, and its output has the same labels. Labels that meet in one channel go together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from bench.errors import ARCHITECTURE, RunFailed
from bench.measure.flops import no_fast_path
from bench.models.shared_parameters import copied, plain
from bench.models.torch_state import NORMS
from bench.pruning.channel_groups import BATCH, OUTPUT, Trace, layer_name
from bench.pruning.channel_labels import Flow, Ledger, Rules, Shape, compact
from bench.pruning.slicing import CONVS, OTHER_NORMS, channels

LAYERS = (*CONVS, nn.Linear, *NORMS, *OTHER_NORMS, nn.PReLU)
"""Layers whose channels a slice can remove."""


def with_stand_ins(network: nn.Module) -> nn.Module:
    """``network`` itself, with modules that offer a ``stand_in()`` replaced by it."""
    for name, module in list(network.named_modules()):
        if hasattr(module, "stand_in"):
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.stand_in())
    return network


def trace(network: nn.Module, shape: tuple[int, ...]) -> Trace:
    """Follow the units of ``network`` for inputs of ``shape`` (without the batch axis).

    Raises:
        RunFailed: its forward fails.
    """
    traced = with_stand_ins(plain(copied(network).cpu().float()))
    tracer = _Tracer(traced, _alone(network))
    try:
        with torch.no_grad(), no_fast_path(), sdpa_kernel(SDPBackend.MATH), tracer.watching():
            x = torch.zeros(BATCH, *shape)
            tracer.enter(x, "its units meet channels of the image")
            out = traced(x)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0]
        raise RunFailed(
            f"cannot trace this network ({why}); it needs a forward that maps one image tensor to one logits tensor",
            blame=ARCHITECTURE,
        ) from error
    for tensor in tree_leaves(out):
        if isinstance(tensor, Tensor):
            tracer.ledger.fix(tracer.flow(tensor).labels, OUTPUT)
    tracer.ledger.fixed.sort(key=lambda note: note[1] != OUTPUT)  # it says more than what lies on the way to it
    return tracer.result()


def _alone(network: nn.Module) -> dict[str, torch.Size]:
    """Shapes of parameters that can lose entries on their own: of one name, with one axis of several entries."""
    found = dict(network.named_parameters(remove_duplicate=False))
    names = Counter(id(parameter) for parameter in found.values())
    single = {n: p.shape for n, p in found.items() if names[id(p)] == 1}
    return {name: shape for name, shape in single.items() if max(shape, default=1) == shape.numel() > 1}


class _Tracer(TorchDispatchMode):
    """Follows labels through the modules and operators of one forward pass."""

    def __init__(self, network: nn.Module, alone: Mapping[str, torch.Size] = MappingProxyType({})) -> None:
        super().__init__()
        self.network, self.alone, self.ledger = network, alone, Ledger()
        self.rules = Rules(self.ledger, self.flow)
        self.names = {module: layer_name(name) for name, module in reversed(list(network.named_modules()))}
        self.owned: dict[int, tuple[str, str]] = {}
        for kind, tensors in (("parameter", network.named_parameters()), ("buffer", network.named_buffers())):
            for name, tensor in tensors:
                self.owned[id(tensor)] = kind, name
        self.flows = WeakTensorKeyDictionary()
        self.sides: dict[tuple[str, str], Tensor] = {}
        self.excitations: set[str] = set()
        self.calls: dict[str, tuple[int, int]] = {}
        self.feeds: dict[str, frozenset[str]] = {}
        self.work: list[tuple[Tensor, Shape, int]] = []
        self.stack: list[nn.Module] = []
        self.inside = 0  # layers whose operators are not followed, since the layer as a whole is
        self.steps = 0

    def result(self) -> Trace:
        """What was found."""
        layers = list(dict.fromkeys(layer_name(name) for name, _ in self.network.named_modules()))
        return Trace(layers, self.ledger, self.sides, self.excitations, self.calls, self.feeds, self.work)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the forward passes in here."""
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._before))
            handles.append(module.register_forward_hook(self._after, with_kwargs=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def flow(self, tensor: Tensor) -> Flow:
        """What is known of ``tensor``."""
        if tensor not in self.flows:
            self.flows[tensor] = Flow(self._outset(tensor))
        found: Flow = self.flows[tensor]
        return found

    def _outset(self, tensor: Tensor) -> Tensor:
        """Labels of a tensor that no operator made: one an entry, where it is a parameter with a single axis."""
        kind, name = self.owned.get(id(tensor), ("", ""))
        if name in self.alone and self.alone[name] == tensor.shape:
            labels = self.sides[name, "both"] = self.ledger.fresh(tensor.numel())
            return labels.reshape(tensor.shape)
        why = f"its units also index the {kind} {name}, which a slice cannot follow"
        return torch.full((1,) * tensor.dim(), self.ledger.name_foreign(why) if name else 0)

    def enter(self, tensor: Tensor, why: str) -> None:
        """``tensor`` comes from outside."""
        self.flows[tensor] = Flow(torch.full((1,) * tensor.dim(), self.ledger.name_foreign(why)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.inside:
            self._operator(func, args, kwargs, out)
        return out

    def _operator(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not results:
            return
        module = self.stack[-1] if self.stack else self.network
        flows = [self.flow(t) for t in inputs]
        name = func.overloadpacket.__name__.removesuffix("_")
        if name == "mul" and len(flows) == 2:
            for factor, other in (flows, flows[::-1]):
                if factor.step != other.step and factor.behind >> other.step & 1:
                    self.excitations |= factor.makers - other.makers
        if name == "convolution":
            labels = [self._convolution(module, args[0], args[1], results[0])]
            layer = self.names[module]
        else:
            labels, layer = self.rules.apply(func, args, dict(kwargs), out, self._where(module)), None
            worked = _work(name, args, results[0])
            if worked:
                at = labels[0] if worked[0] is results[0] else self.flow(worked[0]).labels
                self.work.append((at, worked[0].shape, worked[1]))
        self._arrive(results, labels, flows, layer)
        if name == "copy":
            self._written(args[0])

    def _arrive(self, results: list[Tensor], labels: list[Tensor], flows: list[Flow], layer: str | None) -> None:
        """A step gave ``results``, with these labels; ``layer`` is the one that made them."""
        self.steps += 1
        behind, makers = 1 << self.steps, frozenset[str]()
        for flow in flows:
            behind |= flow.behind
            makers |= flow.makers
        for k, tensor in enumerate(results):
            found = labels[k] if k < len(labels) else torch.zeros((1,) * tensor.dim(), dtype=torch.int64)
            self.flows[tensor] = Flow(found, self.steps, behind, frozenset({layer}) if layer else makers)
        if layer:
            steps, all_behind = self.calls.get(layer, (0, 0))
            self.calls[layer] = steps | 1 << self.steps, all_behind | behind

    def _written(self, view: Tensor) -> None:
        """What was copied to a view is in the tensor that it is a view of."""
        base = view._base
        if base is not None and base.is_contiguous():
            labels = self.flow(base).labels.expand(base.shape).clone()
            labels.as_strided(view.shape, view.stride(), view.storage_offset()).copy_(self.flow(view).labels)
            self.flows[base] = replace(self.flows[view], labels=compact(labels))

    def _convolution(self, module: nn.Module, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """A convolution that a module computes itself: with its weight, or with one made of it."""
        if isinstance(module, CONVS) and weight is module.weight:
            return self._layer(self.names[module], module, self.flow(x).labels, x, out)
        where = self._where(module)
        self.ledger.fix(self.flow(x).labels, f"{where} reads its units with a weight that it computes")
        if isinstance(module, CONVS) and module.groups == 1:
            return self._make(self.names[module], len(weight), 1, out)
        foreign = self.ledger.name_foreign(f"its units meet the output of {where}, whose channels are no units")
        return torch.full((1,) * out.dim(), foreign)

    def _where(self, module: nn.Module) -> str:
        name = self.names.get(module)
        return f"{name} ({type(module).__name__})" if name else "the network"

    def _before(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)
        self.inside += _is_whole(module)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self.stack.pop()
        self.inside -= _is_whole(module)
        if self.inside or not _is_whole(module):
            return
        x, name = next(t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), self.names[module]
        flow = self.flow(x)
        labels = self._layer(name, module, flow.labels, x, out)
        self.feeds[name] = flow.makers
        self._arrive([out], [labels], [flow], name if isinstance(module, (*CONVS, nn.Linear)) else None)

    def _layer(self, name: str, module: Any, labels: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """Labels of what a layer gives; what it reads, makes or passes on is noted."""
        axis = x.dim() - 1 if isinstance(module, nn.Linear) else min(1, x.dim() - 1)
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return labels
        n_in, n_out = channels(module)
        where = self._where(module)
        others, why = [d for d in range(labels.dim()) if d != axis], f"{where} depends on all its units at once"
        at = self.ledger.mix(labels, others, why).flatten().expand(n_in)
        groups = n_in if isinstance(module, (*NORMS, nn.PReLU)) else getattr(module, "groups", 1)
        if isinstance(module, OTHER_NORMS):
            groups = getattr(module, "num_groups", n_in)
        if groups == 1 and isinstance(module, (*CONVS, nn.Linear)):  # a norm of one channel passes it on
            self._note((name, "in"), at)
            return self._make(name, n_out, axis if isinstance(module, nn.Linear) else 1, out)
        if not isinstance(module, OTHER_NORMS):
            why = f"groups of {where} read all its units together"
        together = self.ledger.mix(at.reshape(groups, -1), [1], why)
        passed = together.expand(groups, n_out // groups).flatten()
        self._note((name, "both"), passed)
        return compact(passed.reshape([-1 if d == axis else 1 for d in range(out.dim())]))

    def _make(self, name: str, n: int, axis: int, out: Tensor) -> Tensor:
        if (name, "out") not in self.sides:
            self.sides[name, "out"] = self.ledger.fresh(n)
        return self.sides[name, "out"].reshape([-1 if d == axis else 1 for d in range(out.dim())])

    def _note(self, key: tuple[str, str], labels: Tensor) -> None:
        """These labels lie at the channels of a layer; what lay there in an earlier call goes with them."""
        if key in self.sides:
            self.ledger.unite(labels, self.sides[key])
            labels = torch.where(labels > 0, labels, self.sides[key])
        self.sides[key] = labels


def _work(name: str, args: tuple[Any, ...], out: Tensor) -> tuple[Tensor, int] | None:
    """A tensor and the MACs that an operator does for each of its elements, as fvcore counts; None for zero.

    Adaptive pooling to one value is a mean over the last two axes, which it names from the end.
    """
    if name == "_adaptive_avg_pool2d" or (name == "mean" and args[1:] == ([-1, -2], True)):
        return args[0], 1
    if name in ("mm", "bmm"):
        return out, args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return out, args[1].shape[-1]
    return {"upsample_nearest2d": (out, 1), "upsample_bilinear2d": (out, 4), "grid_sampler_2d": (out, 4)}.get(name)


def _is_whole(module: nn.Module) -> bool:
    """Whether a module is followed as one layer; a convolution with a forward of its own may compute its weight."""
    if isinstance(module, CONVS):
        plain = next(kind for kind in CONVS if isinstance(module, kind))
        return type(module).forward is plain.forward
    return isinstance(module, LAYERS)
