"""The parts of a run's method: whose hooks run now, who has been finalized, what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bench.errors import METHOD, RunFailed
from bench.training.method import Method

Hooks = list[Callable[..., Any]]
State = dict[str, Any] | None


class Parts:
    """The parts of a method during a run.

    Args:
        method: a method, which is its only part, or a composition.

    Attributes:
        left: the parts that have not been finalized, in order.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.left = list(method.members)

    def hooks(self, hook: str, pruned: bool) -> Hooks:
        """Implementations of ``hook`` by the parts that act before, or after, the prune."""
        return [f for part in self.left if part.acts(pruned) for f in part.bound(hook)]

    def ending(self, last: bool) -> list[Method]:
        """The parts that do not act after the prune; ``last``: all that are left."""
        return [part for part in self.left if last or not part.acts(pruned=True)]

    def states(self) -> list[State]:
        """Buffers and parameters of each part for a checkpoint; None for one that was finalized."""
        return [part.state_dict() if part in self.left else None for part in self.method.members]

    def load(self, states: list[State]) -> None:
        """Put back what :meth:`states` gave; ``prepare`` has run, and what is finalized is not ``left`` any more.

        Tensors that were replaced by smaller ones, when units were cut, have the size of the checkpoint.
        """
        for part, state in zip(self.method.members, states, strict=True):
            if state is None:
                continue
            _resize(part, state)
            try:
                part.load_state_dict(state)
            except RuntimeError as error:  # keys that prepare does not register
                why = " ".join(str(error).split())
                raise RunFailed(f"{part.name} cannot be resumed: {why}", blame=METHOD) from error

    def names_of(self, modules: Mapping[str, nn.Module]) -> dict[str, str]:
        """Site -> name, among the method's modules, of the one that is inserted there.

        Raises:
            RunFailed: a module is no attribute of the method.
        """
        names = {id(module): name for name, module in self.method.named_modules()}
        for site, module in modules.items():
            if id(module) not in names:
                raise RunFailed(
                    f"the module inserted at site {site} is no attribute of the method: a resumed run would lose it",
                    blame=METHOD,
                )
        return {site: names[id(module)] for site, module in modules.items()}


def _resize(part: Method, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        owner, _, key = name.rpartition(".")
        try:
            module = part.get_submodule(owner)
        except AttributeError:
            continue  # load_state_dict says so
        held = getattr(module, key, None)
        if held is None or held.shape == value.shape:
            continue
        if key in module._buffers:
            module._buffers[key] = held.new_empty(value.shape)
        elif key in module._parameters:
            setattr(module, key, nn.Parameter(held.new_empty(value.shape), held.requires_grad))
