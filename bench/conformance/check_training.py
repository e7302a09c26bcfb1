"""Checks of what a run trains and is charged for, of its context, and of parts that act after the prune."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any
from unittest.mock import patch

import torch

from bench.conformance.check_runs import EDGES, NO_EPOCHS, ONE_BATCH, resumed
from bench.conformance.checks import Broken, check, require
from bench.conformance.counted_operators import Multiplications
from bench.conformance.observers import observing
from bench.conformance.subject import Subject, Watch, difference
from bench.conformance.tiny_networks import NETWORKS
from bench.errors import Unsupported, UsageError
from bench.spec.method_traits import PLANS, of_method
from bench.training.context import Context
from bench.training.loop import PhaseTrainer
from bench.training.method import Method
from bench.training.plan import PRUNE, Phase, Plan

UNCHARGED = 0.01
"""Share of a run's training cost that a method may compute without being charged."""


@check("phases_train", "A layer that a phase leaves as it is was frozen by other means than ctx.freeze.")
def phases_train(subject: Subject) -> str | None:
    """In each phase with epochs every parameter moves that is not frozen."""
    still: dict[int, set[str]] = {}
    for epoch in epochs_of(subject):
        still[epoch.phase] = (still.get(epoch.phase, epoch.trained) & epoch.trained) - epoch.moved
    for index, names in still.items():
        require(not names, f"'{min(names, default='')}' is the same after step {index} of the plan")
    return f"{len(still)} phases"


@check("trains", "Epochs that change nothing train a network that is not the one that is measured.")
def trains(subject: Subject) -> str | None:
    """In every epoch some parameters of the network change."""
    for epoch in epochs_of(subject):
        where = f"epoch {epoch.number} of step {epoch.phase} of the plan"
        require(bool(epoch.moved), f"no parameter of the network changes in {where}")
    return f"{len(epochs_of(subject))} epochs"


@dataclass(frozen=True)
class Epoch:
    """One epoch of a run: its step of the plan, its number there, parameters that could learn, and those that moved."""

    phase: int
    number: int
    trained: set[str]
    moved: set[str]


def epochs_of(subject: Subject) -> list[Epoch]:
    """All epochs of a plain run, made once."""
    epoch, found = PhaseTrainer._epoch, []

    def watched(training: PhaseTrainer, index: int, *args: Any) -> float:
        before = {n: (p.requires_grad, p.detach().clone()) for n, p in training.model.network.named_parameters()}
        loss = epoch(training, index, *args)
        now = dict(training.model.network.named_parameters())
        moved = {n for n, (_, value) in before.items() if n not in now or not torch.equal(value, now[n].detach())}
        found.append(Epoch(index, training.ctx.epoch + 1, {n for n, (on, _) in before.items() if on}, moved))
        return loss

    if subject.epochs is None:
        with patch.object(PhaseTrainer, "_epoch", watched):
            subject.run()
        subject.epochs = found
    return list(subject.epochs)


@check("phase_hooks", "What starts or ends a phase twice, or never, does so in some runs only.")
def phase_hooks(subject: Subject) -> str | None:
    """on_phase_start and on_phase_end run once in each phase: of 4 epochs, none or one, and stopped after each."""
    short = []
    for settings in (*NO_EPOCHS, ONE_BATCH):
        with contextlib.suppress(Exception):  # the checks that are there for such runs say why they fail
            short.append(subject.once(**settings))
    for run in (subject.standard, *short):
        for part in subject.parts:
            phases = [k for k, step in enumerate(run.plan) if isinstance(step, Phase) and acts(part, k, run.plan)]
            trained = {entry["phase"] for entry in run.done.curve} & set(phases)
            for hook in (hook for hook in EDGES if part.bound(hook)):
                times = run.called[part.name, hook]
                right = len(trained) <= times <= len(phases)
                require(right, f"{hook} of {part.name} runs {times} times in {len(phases)} phases")
    _, stops, called = resumed(subject)
    for (phase, hook, name), times in called.items():
        require(times == 1, f"{hook} of {name} runs {times} times in step {phase} of the plan, with {stops} stops")
    return f"{stops} stops"


def acts(part: Method, phase: int, plan: Plan) -> bool:
    """Whether the hooks of a part run in a phase of a plan."""
    return part.acts(PRUNE in plan and phase > plan.index(PRUNE))


@check("declared", "What a method cannot do must be known before a base is trained, and what it does not read, too.")
def declared(subject: Subject) -> str | None:
    """A network is refused by couplings, kinds and supports alone; labels = False holds."""
    for arch, coupling in (*((name, "inner") for name in NETWORKS), ("check_residual", "full")):
        found = subject.on(arch, coupling)
        if isinstance(found, Exception) and subject.declines(found) and not isinstance(found, Unsupported):
            raise Broken(f"it refuses {arch} once the base is trained ({subject.line(found)}): declare it in supports")
    if all(part.labels for part in subject.parts):
        return None
    train = PhaseTrainer.train

    def without_labels(training: PhaseTrainer, *args: Any) -> None:
        training._start_step()
        with contextlib.nullcontext() if training.now.labelled else zero_labels(training.data.train):
            train(training, *args)

    with patch.object(PhaseTrainer, "train", without_labels):
        other = difference(subject.standard, subject.run())
    require(other is None, f"it declares labels = False, and {other} when all labels are 0")
    return "reads no labels"


@contextlib.contextmanager
def zero_labels(images: Any) -> Iterator[None]:
    """Within the block all labels of these images are 0."""
    labels = images.labels
    object.__setattr__(images, "labels", torch.zeros_like(labels))
    try:
        yield
    finally:
        object.__setattr__(images, "labels", labels)


@check("charged", "A forward pass that is not counted makes a method look cheaper than it is.")
def charged(subject: Subject) -> str | None:
    """Multiply-adds in hooks, counted by operator whatever calls them, are in the cost of the run, within 1 %."""
    counting = Multiplications(lambda: run.ctx is not None and run.ctx._model.ledger.resting)
    depth = 0

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            with counting if depth == 1 else contextlib.nullcontext():
                return call()
        finally:
            depth -= 1

    run = subject.start(watch=watch)
    run.go()
    done = run.done
    known = done.model.ledger.macs - done.model.ledger.macs_by["cache"]
    missing = counting.macs - known
    require(
        missing <= UNCHARGED * done.train_macs,
        f"its hooks make {counting.macs:,} multiply-adds, {known:,} of them are charged: pass images by ctx.forward",
    )
    return f"{counting.macs:,} MACs in hooks" if counting.macs else None


@check("facade", "A context that a method changes is another one for whatever else asks it.", alone=True)
@observing
def facade(subject: Subject) -> Iterator[Watch]:
    """After each hook the context has the names that it had, with the same meaning."""
    own: set[str] = set()
    with context_kept() as before:

        def watch(hook: str, ctx: Context, call: Any) -> Any:
            names = set(vars(ctx))
            result = call()
            own.update(name for name in set(vars(ctx)) - names if not name.startswith("_"))
            require(not own, f"{hook} adds '{min(own, default='')}' to the context")
            for cls, known in before.items():
                other = next((n for n, v in vars(cls).items() if known.get(n) is not v and n not in WEAK), None)
                require(other is None, f"{hook} changes '{other}' of the context's class")
            return result

        yield watch


@contextlib.contextmanager
def context_kept() -> Iterator[dict[type, dict[str, Any]]]:
    """What the context's classes define, and define again after the block, whatever a method made of them."""
    before = {cls: dict(vars(cls)) for cls in Context.__mro__ if cls is not object}
    try:
        yield before
    finally:
        for cls, known in before.items():
            for name in [n for n in vars(cls) if n not in known]:
                delattr(cls, name)
            for name, value in known.items():
                if getattr_static(cls, name) is not value and name not in WEAK:
                    setattr(cls, name, value)


WEAK = {"__dict__", "__weakref__", "__annotations__"}


def acts_before_only(subject: Subject) -> str | None:
    """For the check of what acts after the prune."""
    return None if any(part.acts(pruned=True) for part in subject.parts) else "it does not act after the prune"


@check(
    "after_prune",
    "What is kept is decided at the prune: later a method trains that network and no other.",
    acts_before_only,
)
def after_prune(subject: Subject) -> str | None:
    """The sliced network keeps its structure and no gate; the same after units were cut out twice before the prune."""
    names = [subject.name]
    if PLANS not in of_method(subject.method).decides:
        names.append(f"{subject.name}+check_cuts")

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        network, widths = ctx._model.network, dict(ctx.sites.widths)
        result = call()
        if ctx._now.pruned:
            same = ctx._model.network is network and ctx.sites.widths == widths
            require(same, f"{hook} changes the network's structure after the prune")
            kept = all(bool(mask.all()) for mask in ctx._model.masks.values())
            require(kept, f"{hook} masks units after the prune")
            gated = hook in ("on_epoch_end", "on_phase_end", "on_step_end") and bool(ctx._model.gates.values)
            require(not gated, f"{hook} leaves a gate on the network")
        return result

    tried = []
    for name in names:
        try:
            subject.run(method=name, watch=watch)
        except UsageError:  # its parts want the same decision
            continue
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"as {name}: {subject.line(error)}") from error
        tried.append(name)
    return f"as {', '.join(tried)}"
