"""Gates: multiplying a site's units where they are read, without changing the network; and watching them.

A unit counts as removed when every layer that reads it reads zero. So a gate sits at the input of each
consumer: after normalisation, activation and pooling, whatever lies between, which makes gate == slice hold
for any activation function, concatenation or depthwise layer. A block counts as removed when what it adds to its
input is zero: its gate sits at the output of the modules that its branches end in.

A site's *activation* is what its activation function puts out, before any pooling: the tensor is followed from
the producer through norms and activation modules. Where that path is not made of modules (a sum of several
producers, ``F.relu``), the activation is what the first consumer reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bench.models.shared_parameters import copied
from bench.models.torch_state import NORMS, evaluating
from bench.pruning.sites import Consumer, Sites
from bench.pruning.slicing import CONVS, OTHER_NORMS

Observer = Callable[[str, Tensor], None]
"""Receives a site's name and its activation ``[B, n_units, ...]`` in a forward pass."""
TOLERANCE = 1e-4
"""Largest difference between gated and sliced output, relative to the output's own size where that exceeds 1."""


class Gates:
    """All gates of one network. There are no hooks until something is first gated, observed or inserted.

    Args:
        network: the network whose consumers are hooked.
        sites: its sites.
    """

    def __init__(self, network: nn.Module, sites: Sites) -> None:
        self.network, self.sites = network, sites
        self.readers: dict[str, list[tuple[str, Consumer]]] = defaultdict(list)
        for name, site in sites.items():
            for tap in site.consumers:
                self.readers[tap.layer].append((name, tap))
        self.first = {name: site.consumers[0].layer for name, site in sites.items() if not site.blocks}
        self.values: dict[str, Tensor] = {}
        self.inserted: dict[str, nn.Module] = {}
        self.observer: Observer | None = None
        self._repeats = {(s, t.layer): t.repeats for taps in self.readers.values() for s, t in taps}
        alone = {name: s for name, s in sites.items() if len(s.producers) == 1 and not s.blocks}
        self._producers = {s.producers[0]: (name, s.kind) for name, s in alone.items()}
        self._made: dict[int, tuple[str, Tensor]] = {}  # by identity: a producer's output, as far as it was followed
        self._activated: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._watching = False

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Gate sites by ``values``: site -> ``[n_units]`` or ``[B, n_units]``; sites not named pass unchanged."""
        self.values = dict(values)
        if values:
            self.install()

    def observe(self, observer: Observer | None) -> None:
        """Report each site's activation (before its gate) to ``observer`` in every forward; None stops it."""
        self.observer = observer
        if observer is not None:
            self.install()
        if observer is not None and not self._watching:
            self._watching = True
            for name, module in self.network.named_modules():
                if name in self._producers or isinstance(module, (*NORMS, *OTHER_NORMS)) or is_activation(module):
                    self._handles.append(module.register_forward_hook(self._follow(name)))

    def insert(self, site: str, module: nn.Module) -> None:
        """Pass the site's activation ``[B, n_units, ...]`` through ``module``, before the gate, at every consumer.

        It is in train or eval mode as the network is.
        """
        self.inserted[site] = module
        self.install()

    @property
    def hooks(self) -> list[int]:
        """Ids of its hooks on the network."""
        return [handle.id for handle in self._handles]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block nothing is gated or inserted."""
        before = self.values, self.inserted
        self.values, self.inserted = {}, {}
        try:
            yield
        finally:
            self.values, self.inserted = before

    def remove(self) -> None:
        """Take everything off the network."""
        self.values, self.inserted, self.observer = {}, {}, None
        self._made, self._activated = {}, {}
        for handle in self._handles:
            handle.remove()
        self._handles, self._watching = [], False

    def install(self) -> None:
        """Hook the readers, if that has not been done."""
        if not self._handles:
            for layer, taps in self.readers.items():
                hook = self._hook(taps)
                self._handles.append(self.network.get_submodule(layer).register_forward_pre_hook(hook))
            for name, site in self.sites.items():
                for unit, end in [
                    (unit, end) for unit, block in enumerate(site.blocks) for end in dict.fromkeys(block.ends)
                ]:
                    branch = self.network.get_submodule(end)
                    self._handles.append(branch.register_forward_hook(self._branch(name, unit)))

    def _branch(self, name: str, unit: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        """A forward hook that gates what a branch of a block adds."""

        def gated(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            if name not in self.values:
                return out
            gate = self.values[name].to(out.device, out.dtype)[..., unit]
            return out * gate.reshape(-1, *[1] * (out.dim() - 1))

        return gated

    def _follow(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        """A forward hook that keeps hold of a site's units from their producer to their activation."""
        made_here = self._producers.get(name)

        def follow(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if self.observer is None:
                return
            if made_here:
                site, kind = made_here
                self._made[id(out)] = site, out
                self._activated.pop(site, None)
            elif args and id(args[0]) in self._made:
                site, _ = self._made.pop(id(args[0]))
                self._made[id(out)] = site, out  # holding it keeps its identity its own
                if is_activation(module) or site in self._activated:
                    kind = self._producers[self.sites[site].producers[0]][1]
                    self._activated[site] = out.movedim(-1, 1) if kind == "linear" else out

        return follow

    def _activation(self, x: Tensor, name: str, tap: Consumer) -> Tensor:
        """The site's activation ``[B, n_units, ...]``; called when the consumer of ``tap`` reads ``x``."""
        found = self._activated.pop(name, None)
        self._made = {k: (site, t) for k, (site, t) in self._made.items() if site != name}
        if found is None:
            return self._read(x, name, tap)
        site = self.sites[name]
        if found.shape[1] == site.n_units:
            return found
        made = next(cut for cut in site.cuts if cut.layer == site.producers[0] and cut.side == "out")
        if found.shape[1] != len(made.positions):
            return self._read(x, name, tap)
        order = made.positions[made.units.argsort(stable=True)].to(found.device)
        return found.index_select(1, order).unflatten(1, (site.n_units, -1))

    def _hook(self, taps: list[tuple[str, Consumer]]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            x: Tensor = args[0]
            for name, tap in taps:
                if self.observer and self.first[name] == tap.layer:
                    self.observer(name, self._activation(x, name, tap))
                if name in self.inserted:
                    layer = self.inserted[name]
                    layer.train(self.network.training)
                    x = self._write(x, layer(self._read(x, name, tap)), name, tap)
                if name in self.values:
                    x = x * self._multiplier(self.values[name], x, name, tap)
            return (x, *args[1:])

        return hook

    def _multiplier(self, gate: Tensor, x: Tensor, name: str, tap: Consumer) -> Tensor:
        repeats = self._repeats[name, tap.layer]
        gate = gate.to(x.device, x.dtype)
        if repeats > 1:
            gate = gate.repeat_interleave(repeats, dim=-1)
        elif not repeats:
            ones = gate.new_ones(*gate.shape[:-1], tap.width)
            gate = ones.index_copy(-1, tap.positions.to(x.device), gate[..., tap.units.to(x.device)])
        trailing = x.dim() - 2
        if tap.axis == 1:
            return gate.reshape(*gate.shape, *[1] * trailing)
        return gate.reshape(len(gate), *[1] * trailing, -1) if gate.dim() == 2 else gate

    def _read(self, x: Tensor, name: str, tap: Consumer) -> Tensor:
        """The site's part of a consumer's input as ``[B, n_units, ...]``."""
        x = x.movedim(tap.axis, 1)
        repeats = self._repeats[name, tap.layer]
        if repeats == 1:
            return x
        if not repeats:
            order = tap.units.argsort(stable=True)
            x = x.index_select(1, tap.positions[order].to(x.device))
            repeats = len(order) // (int(tap.units.max()) + 1)
        return x if repeats == 1 else x.unflatten(1, (-1, repeats))

    def _write(self, x: Tensor, part: Tensor, name: str, tap: Consumer) -> Tensor:
        """Put a site's part, shaped as :meth:`_read` gives it, back into a consumer's input."""
        if self._repeats[name, tap.layer] == 1:
            return part.movedim(1, tap.axis)
        order = tap.units.argsort(stable=True)
        moved = x.movedim(tap.axis, 1)
        part = part.reshape(len(x), len(order), *moved.shape[2:]).to(x.dtype)
        return moved.index_copy(1, tap.positions[order].to(x.device), part).movedim(1, tap.axis)


MAKERS = (*CONVS, nn.Linear)
"""Layers whose weights stay in a randomized copy; what else they have (a gain, say) is a scale."""


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an activation function of torch's."""
    return type(module).__module__ == "torch.nn.modules.activation"


@torch.no_grad()
def gate_slice_difference(
    network: nn.Module,
    sliced: nn.Module,
    sites: Sites,
    masks: Mapping[str, Tensor],
    x: Tensor,
    least: float = 1.0,
) -> float:
    """Largest difference between the outputs of the gated ``network`` and the ``sliced`` one, both in eval mode.

    Absolute, divided by the largest output where that exceeds ``least``.
    """
    gates = Gates(network, sites)
    with evaluating(network, sliced):
        small = sliced(x)  # first, as it may fail
        try:
            gates.set({name: mask.to(x.dtype) for name, mask in masks.items()})
            gated = network(x)
        finally:
            gates.remove()
        return float((gated - small).abs().max() / gated.abs().max().clamp(min=least))


def randomized_copy(network: nn.Module) -> nn.Module:
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
                    isinstance(tensor, nn.Parameter) and (name != "weight" or not isinstance(module, MAKERS))
                ):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                elif name == "weight" and not tensor.count_nonzero():  # several times as fast as any()
                    tensor.normal_(generator=generator)
    return probe
