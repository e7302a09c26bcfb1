"""The conformance battery: does a method keep the contract? Real runs on tiny networks, every hook call watched."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from bench.conformance import check_choosing, check_declared, check_hooks, check_reached, check_runs, tiny_networks
from bench.conformance import checks as registered
from bench.conformance.checks import Check, Result
from bench.conformance.subject import Subject
from bench.errors import UsageError
from bench.models.torch_state import undisturbed
from bench.spec.registry import ARCHS, add_plugin, unknown

__all__ = ["CHECKS", "LEAST", "Check", "Report", "Result", "examine", "selected"]

PARTS = [part.__name__ for part in (check_declared, check_runs, check_reached, check_choosing, check_hooks)]
CHECKS = dict(sorted(registered.CHECKS.items(), key=lambda item: PARTS.index(item[1].function.__module__)))
"""All checks by name, cheap and basic ones first."""
LEAST = 20
"""Mandatory checks that must have run, whatever excuses there are."""


@dataclass
class Report:
    """The results of one method's battery."""

    method: str
    origin: str = ""
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0  # of CPU time

    def count(self, outcome: str) -> int:
        """Checks that came out as ``outcome``."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def missing(self) -> list[str]:
        """Mandatory checks that neither ran nor were excused."""
        settled = {r.name for r in self.results if r.outcome != "not run"}
        return [name for name, check in CHECKS.items() if check.mandatory and name not in settled]

    @property
    def verdict(self) -> str:
        """PASSED, FAILED, or INCOMPLETE: nothing failed, but too little was tried."""
        if self.count("FAILED"):
            return "FAILED"
        tried = sum(CHECKS[r.name].mandatory for r in self.results if r.outcome == "ok")
        return "INCOMPLETE" if self.missing or tried < LEAST else "PASSED"

    def __str__(self) -> str:
        ran = self.count("ok") + self.count("FAILED")
        text = f"{self.method}: {self.verdict}: {ran} checks ran, {self.count('ok')} passed, "
        text += f"{self.count('FAILED')} failed, {self.count('skipped')} skipped"
        left = self.count("not run")
        return text + (f", {left} not run" if left else "") + f" ({self.seconds:.0f} s of CPU)"


def selected(only: list[str] | None) -> list[Check]:
    """The checks of these names, None for all; raises UsageError for an unknown one."""
    for name in only or ():
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    return [check for check in CHECKS.values() if not only or check.name in only]


def examine(
    name: str,
    only: list[str] | None = None,
    limit: float = 120.0,
    tell: Callable[[Result], None] | None = None,
    patience: float = 20.0,
) -> Report:
    """Put a method through the battery, with one thread.

    Args:
        name: a registered method, or several as ``a+b``.
        only: names of the checks to make; None makes all. Nothing but all makes a method pass.
        limit: seconds of CPU time for the whole battery, so that other work on the machine decides nothing. What is
            not done by then is not run.
        tell: is given each result as it comes.
        patience: ``limit`` times this is the time on the clock, for a method that waits without using the CPU.

    Raises:
        UsageError: no such method or check.
    """
    checks = selected(only)
    began, end, report = time.process_time(), time.monotonic() + patience * limit, Report(name)
    if tiny_networks.STANDARD not in ARCHS.entries():
        add_plugin(str(tiny_networks.__file__))
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder, undisturbed():
        torch.set_num_threads(1)  # several processes with all threads each slow each other
        subject = Subject(name, Path(folder))
        report.origin = subject.origin
        for check in checks:
            left = limit - (time.process_time() - began)
            result = _made(check, subject, left, end - time.monotonic())
            report.results.append(result)
            if tell:
                tell(result)
    report.seconds = time.process_time() - began
    return report


def _made(check: Check, subject: Subject, seconds: float, on_the_clock: float) -> Result:
    """One check; whatever goes wrong in it is its failure, and only its own."""
    try:
        with _within(seconds, on_the_clock):
            if not check.alone:
                try:
                    _ = subject.standard
                except (Exception, SystemExit):
                    return Result(check.name, "not run", "the method does not get through a run: see 'runs'")
            excuse = next(filter(None, (e(subject) for e in check.excuses)), None)
            if excuse:
                return Result(check.name, "skipped", excuse)
            return Result(check.name, "ok", check.function(subject) or "")
    except _Late:
        return Result(check.name, "not run", "out of time; --limit SECONDS gives the battery more")
    except UsageError as error:
        return Result(check.name, "FAILED", str(error))
    except (Exception, SystemExit) as error:
        return Result(check.name, "FAILED", subject.line(error))


class _Late(BaseException):
    """The time is over. Not an Exception, so that a method cannot take it for one of its own."""


@contextlib.contextmanager
def _within(seconds: float, on_the_clock: float) -> Iterator[None]:
    """Raise _Late in the block when it takes longer; outside of the main thread there is no limit.

    Args:
        seconds: of CPU time of the process.
        on_the_clock: seconds that may pass.
    """
    if min(seconds, on_the_clock) <= 0:
        raise _Late
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(signum: int, frame: FrameType | None) -> None:
        raise _Late

    began = time.monotonic()
    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    others, _ = signal.setitimer(signal.ITIMER_REAL, on_the_clock)  # a caller's own alarm, such as a test's, resumes
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, max(others - (time.monotonic() - began), 0.01) if others else 0)
        for number, handler in before.items():
            signal.signal(number, handler)
