"""Checks of a method against the contract: real runs on tiny networks, every call of a hook watched."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from unittest import SkipTest

import torch

from bench.conformance import (
    check_choosing,
    check_declared,
    check_hooks,
    check_reached,
    check_remains,
    check_runs,
    check_training,
    tiny_networks,
)
from bench.conformance import checks as registered
from bench.conformance.check_training import context_kept
from bench.conformance.checks import Broken, Check, Result
from bench.conformance.subject import Subject
from bench.errors import UsageError
from bench.models.torch_state import undisturbed
from bench.spec.near_names import unknown
from bench.spec.registry import ARCHS, add_plugin

MODULES = (check_declared, check_runs, check_reached, check_choosing, check_hooks, check_training, check_remains)
PARTS = [part.__name__ for part in MODULES]
CHECKS = dict(sorted(registered.CHECKS.items(), key=lambda item: PARTS.index(item[1].function.__module__)))
"""All checks by name, cheap and basic ones first."""
LEAST = 20
"""Number of mandatory checks that must run, whatever skip reasons there are."""


@dataclass
class Report:
    """The results of the checks of one method."""

    method: str
    origin: str = ""
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0  # of CPU time

    def count(self, outcome: str) -> int:
        """Number of checks with this outcome."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def missing(self) -> list[str]:
        """Mandatory checks that neither ran nor were skipped."""
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
        ok, failed, left = map(self.count, ("ok", "FAILED", "not run"))
        text = f"{self.method}: {self.verdict}: {ok + failed} checks ran, {ok} passed, {failed} failed, "
        text += f"{self.count('skipped')} skipped" + (f", {left} not run" if left else "")
        return f"{text} ({self.seconds:.0f} s of CPU)"


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
    notify: Callable[[Result], None] = lambda result: None,
    patience: float = 20.0,
) -> Report:
    """Check a method, with one thread.

    Args:
        name: a registered method, or several as ``a+b``.
        only: names of the checks to run; None runs all. A method passes only if all are run.
        limit: seconds of CPU time for all checks, so that other work on the machine decides nothing. The checks that
            are not done by then are not run.
        notify: is called with each result as it comes.
        patience: ``limit`` times this is the time on the clock, for a method that waits without using the CPU.

    Raises:
        UsageError: no such method or check.
    """
    checks = selected(only)
    began, end = time.process_time(), time.monotonic() + patience * limit
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        subject = _subject(name, folder)
        report = Report(name, subject.origin)
        for check in checks:
            with context_kept():
                result = _result(check, subject, limit - (time.process_time() - began), end - time.monotonic())
            report.results.append(result)
            notify(result)
    report.seconds = time.process_time() - began
    return report


def checks_for(name: str, plugin: str | Path | None = None, limit: float = 120.0) -> list[Callable[[], None]]:
    """The checks of a method for ``pytest.mark.parametrize("check", ...)``: one test each, ``check()`` carries it out.

    Args:
        name: as of :func:`examine`.
        plugin: file that defines the method; it is made known by the first check.
        limit: seconds of CPU time for one check.

    Returns:
        Functions, each with the name of its check. They raise :class:`~bench.conformance.checks.Broken` if the check
        fails or does not end in time, and ``unittest.SkipTest`` if it does not apply.
    """
    shared: list[Subject] = []  # made by the first check

    def bound(check: Check) -> Callable[[], None]:
        def carry_out() -> None:
            if not shared:
                if plugin:
                    add_plugin(str(plugin))
                folder = tempfile.mkdtemp(prefix="bench-check-")
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                shared.append(_subject(name, folder))
            result = _result(check, shared[0], limit, 20 * limit)
            if result.outcome == "skipped":
                raise SkipTest(result.detail)
            if result.outcome != "ok":
                raise Broken(f"{check.name}: {result.detail} ({check.why})")

        carry_out.__name__ = check.name
        return carry_out

    return [bound(check) for check in CHECKS.values()]


def _subject(name: str, folder: str) -> Subject:
    if tiny_networks.STANDARD not in ARCHS.entries():
        add_plugin(str(tiny_networks.__file__))
    return Subject(name, Path(folder))


def _result(check: Check, subject: Subject, seconds: float, on_the_clock: float) -> Result:
    """The result of one check; whatever goes wrong in it is its failure, and only its own."""
    try:
        with undisturbed(), _within(seconds, on_the_clock):
            torch.set_num_threads(1)  # several processes with all threads each slow each other
            if not check.alone:
                try:
                    _ = subject.standard
                except (Exception, SystemExit):
                    return Result(check.name, "not run", "the method does not get through a run: see 'runs'")
            reason = next(filter(None, (reason(subject) for reason in check.skip_reasons)), None)
            if reason:
                return Result(check.name, "skipped", reason)
            return Result(check.name, "ok", check.function(subject) or "")
    except _Late:
        return Result(check.name, "not run", "out of time; --limit SECONDS gives the checks more")
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
