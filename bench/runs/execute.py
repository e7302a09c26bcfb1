"""One run, from its specification to its record: locks, interruptions, failures, the one record that remains."""

from __future__ import annotations

import errno
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch

from bench.errors import (
    ARCHITECTURE,
    DATA,
    MACHINE,
    METHOD,
    RECIPE,
    SUITE,
    BenchError,
    Diverged,
    RunFailed,
    SetupError,
    UsageError,
)
from bench.files import run_lock
from bench.measure import environment
from bench.models.error_place import first_line, place_in_network
from bench.progress import Progress
from bench.records import store
from bench.records.schema import Finished, Record, finished
from bench.runs import result
from bench.runs.blame import culprit, place_in_method
from bench.runs.identity import arch_source
from bench.runs.method_factory import make_method, method_digest
from bench.runs.pipeline import RunPipeline
from bench.spec.request import RunOptions
from bench.spec.spec import Spec
from bench.spec.wording import plural


def disk_full(error: BaseException) -> bool:
    """Whether the disk, not the run, is at fault: the run can be resumed."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def crowded(error: BaseException) -> bool:
    """Whether a GPU had no memory left; the run is at fault unless it shares the GPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError)


def execute(
    spec: Spec, options: RunOptions, progress: Progress | None = None, job: dict[str, Any] | None = None
) -> Finished:
    """Carry out a run, or return its record if it is already done.

    Args:
        spec: what to run.
        options: where and how.
        progress: notified of every epoch and checkpoint; None: a new one on stderr.
        job: what the record says of the job that the run is part of.

    Returns:
        The record; its status is ``ok``.

    Raises:
        UsageError, SetupError: before anything started; nothing is written.
        RunFailed: the run failed; its record says how.
        KeyboardInterrupt: the run was interrupted, and can be resumed; its record says so.
        SetupError: also when the disk is full; the run can be resumed.
    """
    path = store.path_of(options.out, spec)
    done = _already(path, spec, options)
    if done:
        return done
    run = RunPipeline(spec, options, progress, job)
    lock = run_lock(options.out, spec.id)
    if lock.busy():
        run.progress.say("another process is executing this run; waiting for it to finish")
    with lock, terminable():
        done = _already(path, spec, options)
        if done:
            return done
        status, blame, failure = "ok", SUITE, None
        try:
            run.go()
        except UsageError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            failure = error
            status, blame = _status(error, job), _blame(error, run)
        finally:
            run.progress.close()
            run.cleanup()
        record = run.record(failure, status, blame)
        try:
            store.seal(record)
        except store.RecordError as problem:  # a bug of the suite, reported rather than published
            failure, status, blame = RunFailed(f"the record would not be valid: {problem}"), "failed", SUITE
            record = _readable(result.failed(record, status, failure, blame))
        try:
            record = store.write(path, record, replace=options.retry)
        except OSError as error:
            kept = _rescue(path, record)
            raise SetupError(f"record not written to {path} ({error.strerror}): it is in {kept}") from error
        if status != "interrupted":
            run.checkpoint.unlink(missing_ok=True)
        if isinstance(failure, BenchError | KeyboardInterrupt):
            raise failure
        if failure is not None and status == "interrupted":
            reason = failure.strerror if isinstance(failure, OSError) else "no GPU memory next to other processes"
            raise SetupError(f"{reason}: make room and run the same command: it resumes") from failure
        if failure is not None:
            raise RunFailed(f"{_message(failure, blame, run)}; the record has the traceback: {path}") from failure
        return cast(Finished, record)


def _status(error: BaseException, job: dict[str, Any] | None) -> str:
    """Status of a run that ended with ``error``; what only lacks room can be resumed."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, BenchError):
        return error.status
    later = disk_full(error) or (crowded(error) and (job or {}).get("at_once", 1) > 1)
    return "interrupted" if later else "failed"


def _readable(record: Record) -> Record:
    """``record``, without its results where nobody could read it with them."""
    try:
        return store.seal(record)
    except store.RecordError:
        return result.without_results(record)


def train_base(spec: Spec, options: RunOptions, progress: Progress | None = None) -> str:
    """Train the base of a run and nothing else; returns the base's name, at once if it is there.

    Raises UsageError, SetupError, RunFailed; KeyboardInterrupt, after which the same call resumes.
    """
    run = RunPipeline(spec, options, progress)
    with terminable():
        try:
            return run.train_base()
        finally:
            run.progress.close()


def leave_failure(spec: Spec, options: RunOptions, error: BaseException, job: dict[str, Any] | None = None) -> None:
    """Write the record of a run that could not start; where nobody watches, an error must not pass unrecorded.

    Raises OSError when the disk does not take it, RunFailed when a finished record is already there.
    """
    try:
        method_sha256 = method_digest(make_method(spec.method, {}))
    except BenchError:  # perhaps the very error
        method_sha256 = None
    code = environment.code() | {"method_sha256": method_sha256}
    unstarted = result.started(spec, options, code, environment.versions(torch.device("cpu")), job)
    unstarted = result.failed(unstarted, "failed", error, culprit(error, spec))
    store.write(store.path_of(options.out, spec), unstarted, replace=options.retry)


def _already(path: Path, spec: Spec, options: RunOptions) -> Finished | None:
    if not path.is_file():
        return None
    found = store.load(path)
    if finished(found) and not options.retry:
        for text in _not_as_asked(found, spec, options):
            print(f"bench: note: {text}; --retry runs it again: {path}", file=sys.stderr)
        return found
    if found.status in ("ok", "interrupted") or options.retry:
        return None
    why = found.error.message if found.error else ""
    raise RunFailed(f"this run {found.status} before ({why}); --retry runs it again: {path}")


def _blame(error: BaseException, run: RunPipeline) -> str:
    """Whose fault it is that ``run`` failed; where its base diverged, no method took part yet."""
    if isinstance(error, KeyboardInterrupt):
        return MACHINE
    if isinstance(error, Diverged):
        return RECIPE if run.base is None else METHOD
    training = run.training if run.base is not None else None
    return culprit(error, run.spec, run.shape, acting=training is not None and training.method is not None)


def _message(error: BaseException, blame: str, run: RunPipeline) -> str:
    """What failed, with the error's first line and its place in the files of what is to blame."""
    spec = run.spec
    subject = {
        METHOD: f"{spec.method} failed",
        ARCHITECTURE: f"architecture '{spec.arch}' failed",
        DATA: f"data set '{spec.dataset}' failed",
        MACHINE: "this machine failed",
        SUITE: f"a fault of the suite, not of {spec.method}",
    }
    where = ""
    if blame == METHOD:
        where = place_in_method(error, spec)
    elif blame == ARCHITECTURE:
        where = place_in_network(error, run.training.model.network if run.training else run.network)
    return f"{subject[blame]} ({first_line(error)}{f', {where}' if where else ''})"


def _not_as_asked(found: Finished, spec: Spec, options: RunOptions) -> Iterator[str]:
    """Differences between a finished record of ``spec`` and what the same command would make now."""
    code, machine = found.code, found.environment
    if code.method_sha256 != method_digest(make_method(spec.method, {})):
        yield f"the source of {spec.method} has changed since this record"
    if code.network_sha256 != arch_source(spec.arch).sha256:
        yield f"the source of {spec.arch} has changed since this record"
    if options.threads not in (None, machine.threads):
        yield f"this record was made with {plural(machine.threads, 'thread')}, not {options.threads}"
    if options.device.partition(":")[0] not in ("auto", machine.device_type):
        yield f"this record was made on {machine.device_type}, not {options.device}"


def _rescue(path: Path, record: Record) -> str:
    """Keep a record that its folder did not take: in the system's temporary folder, else on stdout."""
    text = store.encode(record).decode()
    try:
        with tempfile.NamedTemporaryFile("w", prefix=path.stem + "-", suffix=".json", delete=False) as file:
            file.write(text)
        return file.name
    except OSError:
        print(text, end="")
        return "the output above"


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block, SIGTERM interrupts like Ctrl-C, so that the run leaves its record.

    Where the program listens to SIGTERM itself, as a job does, that stays so.
    """
    if threading.current_thread() is not threading.main_thread() or callable(signal.getsignal(signal.SIGTERM)):
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
