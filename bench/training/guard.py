"""What a method may not change: compared around its hooks, before each optimizer step and at each epoch's end."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from bench.data.loading import TrainingData
from bench.errors import METHOD, RunFailed
from bench.spec.digest import derive_seed
from bench.spec.recipe import Recipe
from bench.training import torch_settings
from bench.training.ledger import Ledger
from bench.training.masked_model import MaskedModel
from bench.training.run_state import RunState
from bench.training.weight_snapshot import Weights, bits

WRITERS = ("on_phase_start", "on_step_end", "on_phase_end", "compensate")
"""Hooks in which every method may change weights."""
DECLARED_WRITERS = ("on_epoch_end",)
"""Hooks in which a method may that declares it (``writes``), and others may set weights to zero."""
STEP_HOOKS = ("on_batch_start", "objective", "penalty", "on_backward_end", "on_step_end")
GLOBAL_HOOKS = [
    hooks
    for module in (modules, optimizers)
    for name, hooks in vars(module).items()
    if name.startswith("_global_") and isinstance(hooks, dict)
]
"""torch's hooks on all modules and on all optimizers."""
OF_A_MODULE = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Guard:
    """Watches the method of one run. What it finds is a RunFailed that names the method and what it changed.

    Weights change in the optimizer's step and in the hooks ``writers``; they may become zero at an epoch's end, too,
    where that is no writer. In writers they may only become zero once the hook has asked for validation images or made
    a forward with a gradient: training is the plan's. ``ctx.rewind`` and ``ctx.shrink`` are the harness's own changes.
    Comparisons are of the tensors' version counters, and to the bit in hooks outside of steps, in two steps of each
    epoch, and after a forward with a gradient.

    Args:
        model: the network, its ledger and its optimizer.
        now: where the run is.
        data: training and validation images.
        recipe: of the run.
        seed: of the run.
        name: of the method.
        writers: hooks in which weights may change.

    Attributes:
        macs: of the ledger, as it has to be.
    """

    def __init__(
        self,
        model: MaskedModel,
        now: RunState,
        data: TrainingData,
        recipe: Recipe,
        seed: int,
        name: str,
        writers: tuple[str, ...] = WRITERS,
    ) -> None:
        self.model, self.now, self.recipe, self.seed, self.name, self.writers = model, now, recipe, seed, name, writers
        self._recipe, self._state = copy.deepcopy(recipe), torch_settings.settings()
        self._global_hooks = [dict(hooks) for hooks in GLOBAL_HOOKS]
        self._own_hooks = {name: hooks_on(module) for name, module in model.network.named_modules()}
        self._data = [t for part in (data.train, data.val) for t in vars(part).values() if isinstance(t, Tensor)]
        self._images = [t._version for t in self._data]
        self.macs = model.ledger.macs  # kept twice, since private access reaches the ledger
        self._parameters = list(model.network.parameters())
        self._since = self._versions()  # versions of the parameters since when they may not change
        self._sampled: frozenset[int] = frozenset()  # steps whose hooks are compared to the bit
        self._weights: Weights | None = None  # as they were when the running hook had to leave them alone
        self._gradients: list[Tensor | None] | None = None
        self._why = ""  # what a writing hook has done, after which weights may only become zero
        self._handed: list[weakref.ref[Tensor]] = []  # validation images that the method may have kept
        now.guard, model.ledger.noticed = self, self._passed
        model.rewritten, model.failed = self._rewritten, self._failed

    # --- hooks -----------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, hook: str) -> Iterator[None]:
        """Within the block the method's ``hook`` runs."""
        self._weights, self._gradients, self._why = None, None, ""
        self._since = self._versions()
        undeclared = hook in DECLARED_WRITERS and hook not in self.writers
        free = undeclared or hook in self.writers
        if undeclared or (not free and (hook not in STEP_HOOKS or self.now.step in self._sampled)):
            self._weights = Weights(self.model.network)
        yield
        if not free:
            self._require_versions(hook)
        changed = self._weights.changed(but_zeros=free) if self._weights else None
        why = "a method that does more there than set some to zero declares it" if undeclared else self._only
        why = f"after {self._why} a hook may only set weights to zero" if self._why else why
        self._require(not changed, f"changes the weights in {hook} ('{changed}'): {why}")
        if self._gradients is not None:
            same = all(map(same_tensor, self._gradients, (p.grad for p in self._parameters)))
            self._require(same, f"changes gradients in {hook}, after it asked for validation images")
        self._require(self.model.ledger.macs == self.macs, f"changes the count of its forwards in {hook}")

    def validation(self, x: Tensor) -> None:
        """The method is given the validation images ``x``."""
        self._handed = [kept for kept in self._handed if kept() is not None] + [weakref.ref(x)]
        if self.now.hook:
            self._alone("validation images")
            self._gradients = self._gradients or self._copied_gradients()

    def _passed(self, macs: int, gradient: bool, x: Any, extra: bool) -> None:
        """The ledger counted a forward of ``x``, of the network or of an ``extra``."""
        self.macs += macs
        if gradient and self.now.hook:
            shown = self._gradients is not None or self._is_validation(x)
            trains = shown and not self.model.probing and self.now.hooks[0] in STEP_HOOKS  # it could become a loss
            self._require(not trains, f"passes validation images with a gradient in {self.now.hook}: use ctx.probe()")
            if not extra:
                self._alone("a forward with a gradient")

    def _is_validation(self, x: Any) -> bool:
        kept = {t.untyped_storage().data_ptr() for t in (ref() for ref in self._handed) if t is not None}
        return isinstance(x, Tensor) and x.untyped_storage().data_ptr() in kept

    def _alone(self, why: str) -> None:
        """From now on the running hook leaves the weights alone, whatever hook it is."""
        self._why = self._why or why
        if self._weights is None:
            self._weights = Weights(self.model.network)

    def _rewritten(self) -> None:
        """The harness changed the weights: after ``ctx.rewind`` and ``ctx.shrink``."""
        self._parameters = list(self.model.network.parameters())
        self._since = self._versions()
        if self._weights is not None:
            self._weights = Weights(self.model.network)
        if self._gradients is not None:
            self._gradients = self._copied_gradients()

    # --- steps and epochs ------------------------------------------------------------------------------------

    def start_epoch(self, steps: int) -> None:
        """Before an epoch of so many steps."""
        drawn = derive_seed(self.seed, "guard", self.now.phase, self.now.epoch) % steps
        self._sampled, self._steps = frozenset({0, drawn}), steps
        self._parameters = list(self.model.network.parameters())

    def start_step(self, x: Tensor, y: Tensor) -> None:
        """Before the hooks of a step on this batch."""
        self._since = self._versions()
        self._batch = (x, y, x._version, y._version)

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients are there, the optimizer has not stepped."""
        self._require_versions("a step")
        x, y, *versions = self._batch
        self._require(versions == [x._version, y._version], "changes the images or labels of a batch in place")
        group, recipe = optimizer.param_groups[0], self._recipe
        wanted = {"lr": self.now.rate, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        wanted |= {"nesterov": recipe.nesterov, "dampening": 0, "maximize": False}
        for key, value in wanted.items():
            if group[key] != value:
                raise self._failed(f"changes the optimizer's {key}: {group[key]} in place of the recipe's {value:g}")

    def end_epoch(self, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]) -> None:
        """After an epoch: its optimizer, and the parameters that it was made for."""
        steps = self.now.step + 1
        self._require(steps == self._steps, f"changes the number of steps in an epoch: {steps}, not {self._steps}")
        same = len(optimizer.param_groups) == 1 and same_objects(optimizer.param_groups[0]["params"], trained)
        self._require(same, "changes the parameters that the optimizer trains")
        kept = same_objects(self._parameters, self.model.network.parameters())
        self._require(kept, "replaces parameters of the network")
        hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        self._require(not any(hooks), "registers a hook on the optimizer")
        self.check_frozen()
        self._require(self.recipe == self._recipe, "changes the recipe")
        same = self._images == [t._version for t in self._data]
        self._require(same, "changes training or validation images in place")
        self.check_globals()

    def check_frozen(self) -> None:
        """Raise RunFailed where the method changed what it froze."""
        changed = self.model.frozen.changed()
        self._require(changed is None, f"changes '{changed}', which is frozen")

    def check_globals(self) -> None:
        """Raise RunFailed where torch's global hooks or settings are not as before the method was first called."""
        same = self._global_hooks == [dict(hooks) for hooks in GLOBAL_HOOKS]
        self._require(same, "leaves a global hook of torch behind")
        state = torch_settings.settings()
        changed = next((name for name, value in self._state.items() if state[name] != value), None)
        self._require(changed is None, f"changes torch's {changed} and leaves it so")

    def check_network(self) -> None:
        """Raise RunFailed where the method left a hook on the network; after it, the gates and the ledger are gone."""
        for name, module in self.model.network.named_modules():
            extra = hooks_on(module) != self._own_hooks.get(name, [])
            self._require(not extra, f"leaves a hook on module '{name}' of the network")

    def remove_hooks(self) -> None:
        """Take away what was not there before the method: global hooks, modes, settings of torch."""
        for hooks, before in zip(GLOBAL_HOOKS, self._global_hooks, strict=True):
            for key in [key for key in hooks if key not in before]:
                del hooks[key]
        torch_settings.restore(self._state)

    # --- comparing -------------------------------------------------------------------------------------------

    def _versions(self) -> list[int]:
        return [p._version for p in self._parameters]

    def _copied_gradients(self) -> list[Tensor | None]:
        return [None if p.grad is None else p.grad.clone() for p in self._parameters]

    def _require_versions(self, where: str) -> None:
        if self._versions() != self._since:
            raise self._failed(f"changes the weights in {where}: {self._only}")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise self._failed(what)

    @property
    def _only(self) -> str:
        return f"they change in the optimizer's step and in {', '.join(self.writers)} only"

    def _failed(self, what: str) -> RunFailed:
        return RunFailed(f"the method {self.name} {what}", blame=METHOD)


def hooks_on(module: nn.Module) -> list[str]:
    """Names of the hooks of a module, which a copy has too; those of a ledger are left out."""
    found = [hook for kind in OF_A_MODULE for hook in getattr(module, kind).values()]
    others = [hook for hook in found if not isinstance(getattr(hook, "__self__", None), Ledger)]
    return [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in others]


def same_objects(one: Any, two: Any) -> bool:
    """Whether two iterables have the same objects in the same order."""
    return [id(a) for a in one] == [id(b) for b in two]


def same_tensor(one: Tensor | None, two: Tensor | None) -> bool:
    """Whether both are None, or equal."""
    return one is two or (one is not None and two is not None and bool((bits(one) == bits(two)).all()))
