"""The method under check, and runs of it by the real pipeline in which every call of a hook can be watched."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import traceback
from collections import Counter
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from textwrap import shorten
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench.conformance.checks import Broken
from bench.conformance.tiny_networks import BLOCKS, CLASSES, NETWORKS, NEURONS, SHAPE, STANDARD
from bench.errors import RunFailed, Unsupported
from bench.models.build import build
from bench.pruning import sites
from bench.pruning.site_discovery import find_sites
from bench.pruning.sites import Sites
from bench.runs.identity import packed_masks
from bench.runs.method_factory import make_method
from bench.runs.pipeline import RunPipeline
from bench.runs.resolve import make_spec
from bench.spec.class_scan import ROOT
from bench.spec.recipe import load_recipe
from bench.spec.registry import METHODS
from bench.spec.request import RunOptions
from bench.spec.spec import DEPTH, WIDTH, Budget, Spec
from bench.training.checkpoint import clone_state
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.method import Method

HOOKS = (
    *("plan", "prepare", "on_phase_start", "on_batch_start", "objective", "penalty"),
    *("on_backward_end", "on_step_end"),
    *("on_epoch_end", "on_phase_end", "scores", "select", "compensate", "finalize"),
)
LONGEST = 300
"""Characters of an error's text in a result: some errors print whole tensors."""
HALF = Budget(keep_macs=0.5)
SHARES, SHARES_OF_BLOCKS = (0.75, 0.5, 0.25, 0.1), (0.75, 0.6, 0.45, 0.3)
RECIPE = {
    "train.epochs": "4",  # a half, a third and a quarter of them are above 0
    "finetune.epochs": "4",
    "batch_size": "24",
    "recalibrate": "2",
    "latency_batch": "4",
    "precision": "fp32",
}

Watch = Callable[[str, Context, Callable[[], Any]], Any]
"""Called around every hook with its name, the context and the call itself; returns what the hook is to return."""


class Stopped(Exception):
    """A check has seen enough of a run."""


def unwatched(hook: str, ctx: Context, call: Callable[[], Any]) -> Any:
    """Just call."""
    return call()


class WatchedRun(RunPipeline):
    """A run without files of its own to keep and without measuring, whose method's hooks pass through ``watch``."""

    def __init__(self, spec: Spec, options: RunOptions, watch: Watch) -> None:
        super().__init__(spec, options)
        self.called: Counter[tuple[str, str]] = Counter()  # by method and hook
        self.scored: tuple[dict[str, Any], Sites] | None = None  # the last scores that its own choice asked for
        for method in dict.fromkeys((self.method, *self.method.members)):
            for hook in HOOKS:
                counted = partial(self._counted, method, hook, getattr(method, hook))
                setattr(method, hook, partial(_watched, watch, hook, counted))

    def _counted(self, method: Method, hook: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.called[method.name, hook] += 1
        result = function(*args, **named)
        if hook == "scores" and method is self.method and "select" in args[0]._now.hooks:
            self.scored = dict(result), args[0].sites
        return result

    def go(self) -> None:
        """The run up to its measurements; afterwards the method is gone from the network, whatever happened."""
        try:
            super().go()
        finally:
            self.cleanup()

    def _measure(self, training: PhaseTrainer) -> None:
        """Nothing: what is measured is no part of the contract, and takes most of the time."""

    @property
    def done(self) -> PhaseTrainer:
        """Its training."""
        assert self.training is not None
        return self.training


def _watched(watch: Watch, hook: str, function: Callable[..., Any], ctx: Context, *rest: Any, **named: Any) -> Any:
    return watch(hook, ctx, partial(function, ctx, *rest, **named))


@cache
def _standard_sites() -> sites.Sites:
    """Of the network that methods are tried on first."""
    return find_sites(build(STANDARD, SHAPE, CLASSES, 0), SHAPE)


class Subject:
    """One method (or composition) under check.

    Args:
        name: registered, ``a`` or ``a+b``.
        folder: an empty one, for bases and checkpoints.

    Attributes:
        units: kinds of units that its runs prune: ``depth`` for a method that works on blocks alone.
        shares: budgets that it is tried at.
        resumed, epochs, observed: what :func:`bench.conformance.check_runs.resumed`,
            :func:`bench.conformance.check_training.epochs_of` and :func:`bench.conformance.observers.observe` keep.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.method = make_method(name, {})
        self.parts = self.method.members
        alone = self.method.kinds == ("block",)
        self.units = DEPTH if alone else WIDTH
        self.shares = SHARES_OF_BLOCKS if alone else SHARES
        origins = [METHODS.origin(part.name) for part in self.parts]
        self.origin = ", ".join(str(relative(o)) for o in origins)
        self.sources = sorted({Path(o.rpartition(":")[0]).resolve() for o in origins})
        self.resumed: Any = None
        self.epochs: Any = None
        self.observed: dict[str, Exception] | None = None
        self.printed = io.StringIO()  # what runs of :meth:`on` say
        self._outcomes: dict[tuple[str, str], WatchedRun | Exception] = {}
        self._once: dict[tuple[tuple[str, Any], ...], WatchedRun] = {}

    @cached_property
    def networks(self) -> tuple[str, ...]:
        """What it is tried on, the standard one first: neurons for a method of linear layers alone."""
        if self.units == DEPTH:
            return (BLOCKS,)
        try:
            self.method.require(_standard_sites())
        except Unsupported:
            return (NEURONS, *NETWORKS)
        return NETWORKS

    def start(
        self,
        arch: str = "",
        budget: Budget | None = HALF,
        seed: int = 0,
        coupling: str = "inner",
        watch: Watch = unwatched,
        method: str = "",
        out: Path | None = None,
        device: str = "cpu",
        units: str = "",
        **settings: str,
    ) -> WatchedRun:
        """A run that is ready to go; ``train__epochs="0"`` and the like change the recipe."""
        spec = self.spec(arch, budget, seed, coupling, method, units, **settings)
        run = WatchedRun(spec, RunOptions(out=out or self.folder, device=device, quiet=True), watch)
        if out is None:
            run.checkpoint.unlink(missing_ok=True)  # of a run that was stopped: nothing is resumed in this folder
        return run

    def spec(
        self,
        arch: str = "",
        budget: Budget | None = HALF,
        seed: int = 0,
        coupling: str = "inner",
        method: str = "",
        units: str = "",
        **settings: str,
    ) -> Spec:
        """The specification of a run; blocks may all leave where it prunes nothing else."""
        recipe = load_recipe("synthetic", RECIPE | {key.replace("__", "."): value for key, value in settings.items()})
        arch, units = arch or self.networks[0], units or self.units
        if units == DEPTH and budget and not isinstance(budget.min_blocks, int):
            budget = dataclasses.replace(budget, min_blocks=0)
        name = method or self.name
        return make_spec(name, arch, "check_images", recipe, budget, seed, coupling, units=units)

    def run(self, *args: Any, chance: int = 0, **settings: Any) -> WatchedRun:
        """A finished run (see :meth:`start`); the global generators start from the seed ``chance``."""
        run = self.start(*args, **settings)
        shake(chance)
        run.go()
        return run

    def stopped(self, watch: Watch, **settings: Any) -> None:
        """A run that ``watch`` stops by raising :class:`Stopped`, or that ends by itself."""
        with contextlib.suppress(Stopped):
            self.run(watch=watch, **settings)

    def once(self, **settings: Any) -> WatchedRun:
        """A run with other settings of the recipe, made once."""
        key = tuple(sorted(settings.items()))
        if key not in self._once:
            self._once[key] = self.run(**settings)
        return self._once[key]

    def upto_prune(self, budget: Budget) -> WatchedRun:
        """A run at a budget, or the plain one; it ends behind the prune where no hook is called later."""
        if budget == HALF and self.units == WIDTH:
            return self.standard
        if any(part.acts(pruned=True) for part in self.parts):
            return self.run(budget=budget)
        run, finish = self.start(budget=budget), PhaseTrainer.finish_prune

        def stopping(training: PhaseTrainer, *args: Any) -> None:
            finish(training, *args)
            raise Stopped

        shake(0)
        with patch.object(PhaseTrainer, "finish_prune", stopping), contextlib.suppress(Stopped):
            run.go()
        return run

    def on(self, arch: str, coupling: str = "inner") -> WatchedRun | Exception:
        """The run on a network, or why there is none; made once."""
        key = arch, coupling
        if key not in self._outcomes:
            try:
                with contextlib.redirect_stdout(self.printed):
                    self._outcomes[key] = self.run(arch=arch, coupling=coupling)
            except Exception as error:
                self._outcomes[key] = error
        return self._outcomes[key]

    @cached_property
    def standard(self) -> WatchedRun:
        """The plain run that others are compared with; raises what it raises."""
        found = self.on(self.networks[0])
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def draws(self) -> bool:
        """Whether the method uses its own random numbers."""
        fresh = torch.Generator("cpu").manual_seed(self.standard.spec.seed)
        return not torch.equal(fresh.get_state(), self.standard.done.ctx.rng.get_state())

    def declines(self, error: Exception) -> bool:
        """Whether the method declares that it does not support a network, or refuses it in one line, as a site may."""
        if isinstance(error, Unsupported):
            return True
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = [*self.sources, Path(str(sites.__file__))]
        raised = (last.line or "").startswith("raise ") and Path(last.filename).resolve() in own
        return raised and isinstance(error, RunFailed | ValueError)

    def line(self, error: BaseException) -> str:
        """An error as one line, with the place in the method's file where it came from."""
        text = shorten(str(error), LONGEST, placeholder=" ...") or type(error).__name__
        text = text if isinstance(error, Broken | RunFailed) else f"{type(error).__name__}: {text}"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() in self.sources]
        return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text


def shake(chance: int) -> None:
    """Seed the global generators of torch, numpy and Python with ``chance``."""
    torch.manual_seed(chance)
    np.random.seed(chance)
    random.seed(chance)


def difference(one: WatchedRun, two: WatchedRun) -> str | None:
    """The first thing in which two finished runs are not the same to the bit; None when there is none."""
    a, b = one.done, two.done
    if packed_masks(a.model.sliced_by or {}) != packed_masks(b.model.sliced_by or {}):
        return "other units are kept"
    for before, after in zip(a.curve, b.curve, strict=False):
        for key in before:
            if before[key] != after.get(key) and before[key] == before[key]:
                return f"'{key}' differs in epoch {before['epoch']} of {before['part']}"
    if len(a.curve) != len(b.curve):
        return f"{len(a.curve)} epochs against {len(b.curve)}"
    weights, others = clone_state(a.model.network), clone_state(b.model.network)
    return next((f"'{name}' differs" for name in weights if not torch.equal(weights[name], others[name])), None)


def relative(origin: str) -> str:
    """``file:line`` seen from the repository's root where it is below it."""
    return origin.removeprefix(f"{ROOT}/")
