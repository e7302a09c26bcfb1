"""What a method's own forward passes cost, counted by hooks on the network that its copies and slices keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from bench.pruning.cost_model import CostModel

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
BACKWARD = 3
"""Forward passes that one costs when a gradient can flow through it: a backward pass counts as two."""


class Ledger:
    """Counts every forward pass of a network, and of the copies and slices made of it, that is not the harness's.

    A pass of the whole network costs what the cost model says at the widths of the network that ran. Layers that run
    outside of one (a part of the network, or images of another size) cost their products. Both count three times
    where the output requires a gradient, except for the part of the network that is frozen: it costs one, unless a
    gradient crosses it, such as that of a gate in front of it.

    Attributes:
        forward: examples that went through a whole network without a gradient.
        backward: examples that went through one with a gradient.
        macs: multiply-adds of all passes, and of ``extras``.
        extras: what else the method uses, such as ``("teacher", "base")`` -> examples and multiply-adds.
        noticed: is called for each pass with its MACs, whether it has a gradient, its input, whether it is an extra.
        frozen: names of modules that learn no more; see :meth:`step_macs`.
        crossed: whether a gradient can reach what is before a frozen layer, in the last forward pass of a network.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self.forward = self.backward = self.macs = 0
        self.extras: dict[tuple[str, str], tuple[int, int]] = {}
        self.frozen: frozenset[str] = frozenset()
        self.crossed = False
        self._own: nn.Module | None = None  # the network whose outermost forward is the harness's
        self.noticed: Callable[[int, bool, Any, bool], None] = lambda macs, gradient, x, extra: None
        self._paused = False
        self._open: list[bool] = []  # calls of whole networks that are running; whether they are counted as such
        self._handles: list[RemovableHandle] = []

    def __deepcopy__(self, memo: Any) -> Ledger:
        return self  # the hooks of a copied network count here

    @property
    def counts(self) -> dict[str, int]:
        """``forward``, ``backward`` and ``macs``, as a checkpoint keeps them."""
        return {"forward": self.forward, "backward": self.backward, "macs": self.macs}

    @counts.setter
    def counts(self, counts: dict[str, int]) -> None:
        self.forward, self.backward, self.macs = counts["forward"], counts["backward"], counts["macs"]

    @property
    def macs_by(self) -> dict[str, int]:
        """``macs`` of ``forwards`` and of each kind of ``extras``."""
        found = {"forwards": self.macs, "teacher": 0, "own": 0, "cache": 0}
        for (what, _), (_, macs) in self.extras.items():
            found[what] += macs
            found["forwards"] -= macs
        return found

    def charge(self, what: str, name: str, examples: int, macs: int, gradient: bool = False, x: Any = None) -> None:
        """Count ``macs`` for so many examples as an extra of the kind ``what``; ``x`` is what was passed."""
        before = self.extras.get((what, name), (0, 0))
        self.extras[what, name] = before[0] + examples, before[1] + macs
        self.macs += macs
        self.noticed(macs, gradient, x, True)

    def follow(self, module: nn.Module, name: str) -> None:
        """Count the forwards of a module that is no part of the network, layer by layer, as ``("own", name)``."""

        def ran(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            trained = isinstance(output, Tensor) and output.requires_grad
            macs = (BACKWARD if trained else 1) * products(layer, args[0], output) if isinstance(layer, LAYERS) else 0
            self.charge("own", name, len(args[0]) if layer is module else 0, macs, trained, args[0])

        for layer in module.modules():
            if layer is module or isinstance(layer, LAYERS):
                layer.register_forward_hook(ran)

    @property
    def resting(self) -> bool:
        """Whether nothing is counted, since the harness looks at the network."""
        return self._paused

    @property
    def hooks(self) -> list[int]:
        """Ids of its hooks."""
        return [handle.id for handle in self._handles]

    def attach(self, *networks: nn.Module) -> None:
        """Count the forwards of ``networks``, and of no others, but for copies that exist already."""
        self.detach()
        for network in networks:
            self._handles.append(network.register_forward_pre_hook(self._enter))
            self._handles.append(network.register_forward_hook(self._leave, always_call=True))
            layers = (module for module in network.modules() if isinstance(module, LAYERS) and module is not network)
            self._handles += [layer.register_forward_hook(self._layer) for layer in layers]

    def detach(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def harness(self, network: nn.Module) -> Iterator[None]:
        """Within the block, forwards of ``network`` itself are the harness's; what they call inside is not."""
        before, self._own = self._own, network
        try:
            yield
        finally:
            self._own = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block nothing is counted."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def step_macs(self, network: nn.Module) -> int:
        """MACs of a training step on one example: three times all, less :meth:`credit`."""
        return BACKWARD * self.costs.macs(self.costs.widths_of(network)) - self.credit(network)

    def credit(self, network: nn.Module) -> int:
        """MACs that a step on one example does not make since no gradient is computed for what is frozen."""
        return (BACKWARD - 1) * self.macs_of_frozen(network)

    def macs_of_frozen(self, network: nn.Module) -> int:
        """MACs of a forward of one example in the part of ``network`` that is frozen."""
        frozen = [name for name in self.frozen if _is_frozen(network, name)]
        return self.costs.macs_within(frozen, self.costs.widths_of(network)) if frozen else 0

    def _enter(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._open:
            self.crossed = False
        whole = bool(args) and isinstance(args[0], Tensor) and tuple(args[0].shape[1:]) == self.costs.shape
        self._open.append(whole or network is self._own)

    def _leave(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        whole = self._open.pop()
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if self._paused or not whole or not outputs or (network is self._own and not self._open):
            return
        examples, gradient = len(args[0]), any(leaf.requires_grad for leaf in outputs)
        if gradient:
            self.backward += examples
            each = self.step_macs(network) + (self.credit(network) if self.crossed else 0)
            self._add(examples * each, gradient, args[0])
        else:
            self.forward += examples
            self._add(examples * self.costs.macs(self.costs.widths_of(network)), gradient, args[0])

    def _layer(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.frozen and output.requires_grad and not layer.training and not _is_trained(layer):
            self.crossed = True  # layers that the network itself does not train are in train mode
        if not self._paused and not any(self._open):
            passes = BACKWARD if output.requires_grad else 1
            self._add(passes * products(layer, args[0], output), output.requires_grad, args[0])

    def _add(self, macs: int, gradient: bool, x: Any) -> None:
        self.macs += macs
        self.noticed(macs, gradient, x, False)


def products(layer: Any, x: Tensor, output: Tensor) -> int:
    """Multiply-adds of a convolution or linear layer that made ``output`` of ``x``."""
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    taps = prod(layer.kernel_size)
    if layer.transposed:
        return x.numel() * layer.out_channels // layer.groups * taps
    return output.numel() * layer.in_channels // layer.groups * taps


def _is_frozen(network: nn.Module, name: str) -> bool:
    """Whether no parameter of the module ``name`` of ``network`` is trained."""
    return not _is_trained(network.get_submodule(name))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
