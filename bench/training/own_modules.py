"""Modules of a method's own, such as a critic: made from the run's seed, each with its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import METHOD, RunFailed
from bench.spec.digest import derive_seed
from bench.training.ledger import Ledger

Makes = Callable[..., torch.optim.Optimizer]
"""Makes an optimizer of parameters with the keyword ``lr``, such as ``torch.optim.SGD``."""


class OwnModules:
    """Name -> module and optimizer; no step of the network's optimizer changes them."""

    def __init__(self) -> None:
        self._own: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {}

    def add(self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep a module; raises RunFailed for a name that exists."""
        if name in self._own:
            raise RunFailed(f"ctx.own('{name}'): it exists; choose another name", blame=METHOD)
        self._own[name] = module, optimizer

    def minimize(self, loss: Tensor, name: str) -> None:
        """One step of the optimizer of ``name`` down the gradient of ``loss``; nothing else gets a gradient.

        Raises:
            RunFailed: there is no such module, or the loss does not depend on it.
        """
        if name not in self._own:
            raise RunFailed(f"ctx.minimize: no module '{name}'; ctx.own makes one in prepare", blame=METHOD)
        module, optimizer = self._own[name]
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else ()
        if all(gradient is None for gradient in gradients):
            raise RunFailed(f"ctx.minimize: the loss has no gradient for '{name}'", blame=METHOD)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Drop what the network's backward pass left on them."""
        for module, _ in self._own.values():
            for parameter in module.parameters():
                parameter.grad = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: [module.state_dict(), o.state_dict()] for name, (module, o) in self._own.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        for name, (weights, moments) in state.items():
            module, optimizer = self._own[name]
            module.load_state_dict(weights)
            optimizer.load_state_dict(moments)


def made(
    factory: Callable[[], nn.Module], seed: int, name: str, device: torch.device, network: nn.Module, ledger: Ledger
) -> nn.Module:
    """What ``factory`` makes with the run's ``seed``, on ``device``, its forwards counted by ``ledger``.

    Raises:
        RunFailed: it makes no module, or one that has a parameter of ``network``.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "own", name))
        module = factory()
    if not isinstance(module, nn.Module):
        raise RunFailed(f"ctx.own('{name}'): the factory made {type(module).__name__}, not a module", blame=METHOD)
    module = module.to(device)
    of_network = {id(p) for p in network.parameters()}
    if any(id(p) in of_network for p in module.parameters()):
        raise RunFailed(f"ctx.own('{name}'): it shares a parameter with the network", blame=METHOD)
    ledger.follow(module, name)
    return module
