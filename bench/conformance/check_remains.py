"""Checks of what a method sees, prints, costs and leaves behind."""

from __future__ import annotations

import contextlib
import time
from typing import Any
from unittest.mock import patch

from bench.conformance.checks import Broken, check, require
from bench.conformance.subject import HOOKS, Stopped, Subject, WatchedRun
from bench.data import loading
from bench.pruning.blocks import remove
from bench.training.context import Context
from bench.training.loop import PhaseTrainer

SLOWEST = 50
"""Times a plain step that a step may take."""
HOOKED = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


@check("test_set", "A method that sees test images makes its accuracy worthless.")
def test_set(subject: Subject) -> str | None:
    """Neither asked of the context nor loaded."""
    asked: list[str] = []
    batches = Context.batches

    def listening(ctx: Context, split: str = "train", limit: int | None = None) -> Any:
        asked.append(split)
        return batches(ctx, split, limit)

    def closed(*args: Any) -> Any:
        asked.append("test")
        raise Broken("the test set is loaded before the method is released")

    error: Exception | None = None
    with patch.object(Context, "batches", listening), patch.object(loading, "load_test", closed):
        try:
            subject.run()
        except Exception as found:
            error = found
    strange = sorted(set(asked) - {"train", "val"})
    require(not strange, f"it asks for the split '{strange[0] if strange else ''}'")
    if error is not None:
        raise error
    return None


@check("quiet", "stdout is for records; numbers belong into ctx.log, which keeps them.")
def quiet(subject: Subject) -> str | None:
    """A run prints nothing."""
    said = " ".join(subject.printed.getvalue().split())
    require(not said, f"it prints '{said[:60]}'")
    return None


@check("nothing_left", "Fine-tuning and latency are of the network alone, not of a method's remains.", alone=True)
def nothing_left(subject: Subject) -> str | None:
    """After a run neither the dense nor the final network has a hook, module, buffer or attribute too many."""
    left_clean(subject.standard)
    return None


@check("nothing_left_after_an_error", "A failed run must not poison the next one in the same process.", alone=True)
def nothing_left_after_an_error(subject: Subject) -> str | None:
    """The same when each of its hooks has raised."""
    hooks = [h for h in HOOKS if subject.method.bound(h)] or ["plan"]
    for failing in hooks:
        calls = 0

        def watch(hook: str, ctx: Context, call: Any, failing: str = failing) -> Any:
            nonlocal calls
            result = call()
            calls += hook == failing
            if hook == failing and calls == 1:
                raise Stopped
            return result

        run = subject.start(watch=watch)
        with contextlib.suppress(Exception):  # its own errors are no better reason to leave things behind
            run.go()
        try:
            left_clean(run)
        except Broken as broken:
            raise Broken(f"after an error in {failing}: {broken}") from broken
    return f"in {len(hooks)} hooks"


def left_clean(run: WatchedRun) -> None:
    """Raise Broken unless the networks of ``run`` are as their architecture made them, weights and blocks aside."""
    networks = {"dense": run.network} | ({"final": run.training.model.network} if run.training else {})
    for which, network in networks.items():
        masks = run.training.model.sliced_by if run.training and which == "final" else None
        like = remove(run.dense(), run.sites.removed(masks or run.sites.ones()))
        wanted = {name: (type(m), set(vars(m))) for name, m in like.named_modules()}
        keys = list(like.state_dict())
        trained = {name: p.requires_grad for name, p in like.named_parameters()}
        found = dict(network.named_modules())
        require(set(found) == set(wanted), f"modules {sorted(set(found) ^ set(wanted))} on the {which} network")
        for name, module in found.items():
            kind, attributes = wanted[name]
            require(type(module) is kind, f"module '{name}' of the {which} network is {type(module).__name__}")
            extra = sorted(set(vars(module)) - attributes)
            require(not extra, f"attribute {extra[:1]} on module '{name}' of the {which} network")
            require(
                not any(getattr(module, hooks, None) for hooks in HOOKED),
                f"a hook on module '{name}' of the {which} network",
            )
        require(list(network.state_dict()) == keys, f"other weights or buffers on the {which} network")
        for name, parameter in network.named_parameters():
            require(not parameter._backward_hooks, f"a hook on parameter '{name}' of the {which} network")
            require(parameter.requires_grad == trained[name], f"parameter '{name}' of the {which} network is frozen")


def cpu_time(subject: Subject, method: str) -> float:
    """Seconds of CPU time that the phases of a run take for an example, hooks included."""
    phase, spent = PhaseTrainer.train, 0.0

    def timed(training: PhaseTrainer, *args: Any) -> None:
        nonlocal spent
        began = time.process_time()
        phase(training, *args)
        spent += time.process_time() - began

    with patch.object(PhaseTrainer, "train", timed):
        run = subject.run(method=method)
    return spent / max(run.done.examples, 1)


@check("overhead", "What takes fifty times a plain step here would take months on a cluster.")
def overhead(subject: Subject) -> str | None:
    """Training with the method takes less than 50 times the CPU time of plain training, in one of three turns."""
    turns: list[tuple[float, float]] = []
    for _ in range(3):
        turns.append((cpu_time(subject, subject.name), cpu_time(subject, "dense")))
        ratio = min(own for own, _ in turns) / min(plain for _, plain in turns)
        if ratio < SLOWEST:
            return f"a step takes {ratio:.1f} x a plain one"
    raise Broken(f"a step takes {ratio:.0f} times as long as a plain one")
