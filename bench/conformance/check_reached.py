"""Checks of what the battery reaches: every hook of a method runs, and no line of one waits for a longer run."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

from bench.conformance.checks import Broken, check, require
from bench.conformance.subject import HOOKS, RECIPE, Subject
from bench.spec.spec import Budget
from bench.training import run_checkpoint
from bench.training.context import Context

CLOCKS = {"phase", "epoch", "step", "progress", "curve", "recipe", "epochs"}
"""What a hook may wait for: the parts of the context that say how far a run has come, or how long it is."""
Lines = set[tuple[Path, int]]
LONG = {"train__epochs": "40", "finetune__epochs": "20"}
WHOLE: dict[str, Any] = {"train__epochs": "200", "finetune__epochs": "40"}
"""Epochs of the suite's longest recipes."""


@check("hooks_ran", "A hook that no run calls is a hook that no other check has tested.")
def hooks_ran(subject: Subject) -> str | None:
    """Every hook that the method defines is called, and none of its lines waits for a later epoch.

    Further runs, at a small budget and with many epochs, are made only where a line waits.
    """
    defined = [(part, hook) for part in subject.parts for hook in HOOKS if part.bound(hook)]
    plain = f"a run of {RECIPE['train.epochs']} + {RECIPE['finetune.epochs']} epochs"
    for part, hook in defined:
        if _of_another(type(part), hook):
            continue
        require(bool(subject.standard.called[part.name, hook]), f"{hook} of {part.name} is not called in {plain}")
    hooks = [Hook.of(inspect.unwrap(getattr(type(part), hook))) for part, hook in defined]
    hooks = [hook for hook in hooks if hook.file in subject.sources]
    executed: Lines = set()
    waiting: dict[str, str] = {}
    for settings in ({}, {"budget": Budget(keep_macs=0.1)}, LONG):
        executed |= executed_lines(subject, **settings)
        waiting = {place: why for hook in hooks for place, why in hook.waiting(executed).items()}
        if not waiting:
            break
    for place, why in waiting.items():
        epochs = f"{LONG['train__epochs']} + {LONG['finetune__epochs']} epochs"
        raise Broken(f"{place} is not reached in a run of {epochs}: the hook waits for '{why}'")
    missed = [f"{hook.file.name}:{line}" for hook in hooks for line in hook.missed(executed)]
    return f"not reached with the default options: {', '.join(missed)}" if missed else f"{len(defined)} hooks"


@check("full_recipe", "What waits for the epochs of a whole recipe was not tried in a shorter run.")
def full_recipe(subject: Subject) -> str | None:
    """A run of as many epochs as the suite's longest recipes have, one step each; it refuses files of data sets.

    So does every run (:mod:`bench.spec.off_limits`): what fails here fails there.
    """
    with patch.object(run_checkpoint, "save_state", lambda path, state: None):  # most of the time
        run = subject.run(**WHOLE, batch_size="500")
    epochs = run.done.epochs + (run.base.facts["epochs"] if run.method.starts_from == "base" and run.base else 0)
    return f"{epochs} epochs"


def _of_another(cls: type, hook: str) -> bool:
    """Whether the hook is inherited from another registered method, with which it is checked."""
    owner = next(base for base in cls.__mro__ if hook in vars(base))
    return owner is not cls and bool(vars(owner).get("name"))


@dataclass(frozen=True)
class Hook:
    """The text of a hook.

    Attributes:
        file: where it is.
        context: the name of its argument that is the context.
        tree: its syntax, with the line numbers of the file.
        lines: those with statements.
    """

    file: Path
    context: str
    tree: ast.AST
    lines: frozenset[int]

    @classmethod
    def of(cls, function: Any) -> Hook:
        """The text of a method's function."""
        code = function.__code__
        tree = ast.increment_lineno(ast.parse(textwrap.dedent(inspect.getsource(function))), code.co_firstlineno - 1)
        return cls(Path(code.co_filename).resolve(), code.co_varnames[1], tree, frozenset(lines_of(code)))

    def missed(self, executed: Lines) -> list[int]:
        """Lines that were not executed."""
        return sorted(line for line in self.lines if (self.file, line) not in executed)

    def waiting(self, executed: Lines) -> dict[str, str]:
        """``file:line`` -> condition, for what a condition on the state of the run has kept from being executed."""
        found = {}
        bodies = [getattr(node, name, None) for node in ast.walk(self.tree) for name in ("body", "orelse")]
        for block in (body for body in bodies if isinstance(body, list)):
            for k, node in enumerate(block):
                asked = isinstance(node, ast.If | ast.While) and self._asks(node.test)
                if not asked or (self.file, node.lineno) not in executed:
                    continue
                leaves = isinstance(node.body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
                for branch in (node.body, node.orelse, block[k + 1 :] if leaves else []):
                    first = next((n.lineno for n in branch if n.lineno in self.lines), None)
                    if first is not None and (self.file, first) not in executed:
                        found[f"{self.file.name}:{first}"] = ast.unparse(node.test)
        return found

    def _asks(self, test: ast.AST) -> bool:
        """Whether a condition reads one of :data:`CLOCKS` from the context, other than to index a list with it."""
        indices = {id(n) for s in ast.walk(test) if isinstance(s, ast.Subscript) for n in ast.walk(s.slice)}
        return any(
            isinstance(node, ast.Attribute)
            and node.attr in CLOCKS
            and ast.unparse(node).startswith(f"{self.context}.")
            and id(node) not in indices
            for node in ast.walk(test)
        )


def executed_lines(subject: Subject, **settings: Any) -> Lines:
    """Lines of the method's files that the hooks of a run execute."""
    executed: Lines = set()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        file = Path(frame.f_code.co_filename)
        if file not in subject.sources:
            return None
        executed.add((file, frame.f_lineno))
        return trace

    def watch(hook: str, ctx: Context, call: Any) -> Any:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return call()
        finally:
            sys.settrace(before)

    subject.run(watch=watch, **settings)
    return executed


def lines_of(code: CodeType) -> Iterator[int]:
    """Lines with statements of a function and of the functions in it, its own first line excluded."""
    for _, _, line in code.co_lines():
        if line is not None and line != code.co_firstlineno:
            yield line
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from lines_of(constant)
