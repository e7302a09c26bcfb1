"""The part of a network that learns no more: no gradient, eval mode, until the prune or the end of training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.pruning.prefix import Prefix
from bench.pruning.sites import Sites
from bench.training.ledger import Ledger
from bench.training.weight_snapshot import bits


class Frozen:
    """The frozen part of ``network``; ``ledger`` counts it as such.

    Attributes:
        modules: dotted names of what runs in it only.
        parameters: dotted names of those that were trained before.
        log: what the record says, an entry for each time that it grew.
        upto: the last module; empty where nothing is frozen.
        views: of each training image whose outputs of ``upto`` are kept (:mod:`bench.training.prefix_cache`).
        counted: views, network and MACs of the outputs that were charged last.
    """

    def __init__(self, network: nn.Module, ledger: Ledger) -> None:
        self._network, self._ledger = network, ledger
        self.modules: set[str] = set()
        self.parameters: set[str] = set()
        self.log: list[dict[str, Any]] = []
        self.upto, self.views = "", 0
        self.counted: list[Any] = [0, "", 0]
        self._kept: dict[str, Tensor] = {}
        self._ids: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.parameters or self.modules)

    def __contains__(self, item: object) -> bool:
        """Whether a module or a parameter is in it."""
        return id(item) in self._ids

    def grow(self, part: Prefix, views: int, upto: str, **facts: Any) -> None:
        """Freeze ``part``, too; ``facts`` are for the record. Nothing happens where all of it is frozen.

        But for the outputs that are to be kept of the last module.
        """
        trained = {name for name in part.parameters if self._network.get_parameter(name).requires_grad}
        if part.modules <= self.modules and not trained and (upto != self.upto or views == self.views):
            return
        self.modules |= part.modules
        self.parameters |= trained
        self.upto, self.views = upto, views
        self._start()
        entry = facts | {"upto": upto, "macs": self._ledger.macs_of_frozen(self._network)}
        self.log.append(entry | ({"views": views} if views else {}))

    def read(self, sites: Sites) -> list[str]:
        """Names of the sites that something frozen reads."""
        return [name for name, site in sites.items() if any(tap.layer in self.modules for tap in site.consumers)]

    def require_unserved(self, call: str, names: Iterable[str], sites: Sites) -> None:
        """Raise RunFailed where a site of these ``names`` is read by layers whose outputs are kept."""
        if name := next((name for name in self.read(sites) if name in names), None) if self.views else None:
            raise RunFailed(f"{call}: site {name} is read by frozen layers, whose outputs are kept", blame=METHOD)

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
        self.upto, self.views = "", 0
        self._ledger.frozen = frozenset()

    def changed(self) -> str | None:
        """Name of a parameter or buffer that is not as it was when it was frozen; None where all are."""
        state = self._network.state_dict()
        return next((n for n, kept in self._kept.items() if not torch.equal(bits(state[n]), bits(kept))), None)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, and for the slice of the network."""
        state = {"modules": sorted(self.modules), "parameters": sorted(self.parameters), "log": self.log}
        return state | {"upto": self.upto, "views": self.views, "counted": self.counted}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a :meth:`state`; the network has its weights, but for blocks that were removed."""
        modules, parameters = (dict(of()) for of in (self._network.named_modules, self._network.named_parameters))
        self.modules, self.parameters = modules.keys() & state["modules"], parameters.keys() & state["parameters"]
        self.log, self.upto, self.views, self.counted = (state[key] for key in ("log", "upto", "views", "counted"))
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
