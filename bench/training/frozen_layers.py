"""The part of a network that learns no more: no gradient, eval mode, until the prune or the end of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.pruning.prefix import Prefix
from bench.training.ledger import Ledger
from bench.training.weight_snapshot import bits


class Frozen:
    """The frozen part of ``network``; ``ledger`` counts it as such.

    Attributes:
        modules: dotted names of what runs in it only.
        parameters: dotted names of those that were trained before.
        log: what the record says, an entry for each time that it grew.
    """

    def __init__(self, network: nn.Module, ledger: Ledger) -> None:
        self._network, self._ledger = network, ledger
        self.modules: set[str] = set()
        self.parameters: set[str] = set()
        self.log: list[dict[str, Any]] = []
        self._kept: dict[str, Tensor] = {}
        self._ids: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.parameters or self.modules)

    def __contains__(self, item: object) -> bool:
        """Whether a module or a parameter is in it."""
        return id(item) in self._ids

    def grow(self, part: Prefix, **facts: Any) -> None:
        """Freeze ``part``, too; ``facts`` are for the record. Nothing happens where all of it is frozen."""
        trained = {name for name in part.parameters if self._network.get_parameter(name).requires_grad}
        if part.modules <= self.modules and not trained:
            return
        self.modules |= part.modules
        self.parameters |= trained
        self._start()
        self.log.append(facts | {"macs": self._ledger.macs_of_frozen(self._network)})

    def apply(self) -> None:
        """Its modules are in eval mode, its parameters are not trained."""
        for module in self._modules():
            module.training = False
        for parameter in self._parameters():
            parameter.requires_grad_(False)

    def lift(self) -> None:
        """Nothing is frozen any more."""
        for module in self._modules():
            module.training = self._network.training
        for parameter in self._parameters():
            parameter.requires_grad_(True)
        self.modules, self.parameters, self._kept, self._ids = set(), set(), {}, set()
        self._ledger.frozen = frozenset()

    def changed(self) -> str | None:
        """Name of a parameter or buffer that is not as it was when it was frozen; None where all are."""
        state = self._network.state_dict()
        return next((n for n, kept in self._kept.items() if not torch.equal(bits(state[n]), bits(kept))), None)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, and for the slice of the network."""
        return {"modules": sorted(self.modules), "parameters": sorted(self.parameters), "log": self.log}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a :meth:`state`; the network has its weights, but for blocks that were removed."""
        modules, parameters = (dict(of()) for of in (self._network.named_modules, self._network.named_parameters))
        self.modules, self.parameters = modules.keys() & state["modules"], parameters.keys() & state["parameters"]
        self.log = state["log"]
        self._start()

    def _start(self) -> None:
        self._ledger.frozen = frozenset(self.modules)
        self.apply()
        self._ids = set(map(id, (*self._modules(), *self._parameters())))
        self._kept = {
            name: self._kept[name] if name in self._kept else tensor.detach().clone()
            for name, tensor in self._network.state_dict().items()
            if name in self.parameters or name.rpartition(".")[0] in self.modules
        }

    def _modules(self) -> list[nn.Module]:
        return [self._network.get_submodule(name) for name in self.modules]

    def _parameters(self) -> list[nn.Parameter]:
        return [self._network.get_parameter(name) for name in self.parameters]
