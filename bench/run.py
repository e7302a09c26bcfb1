"""One run, from its specification to its record: locks, interruptions, failures, the one record that remains."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from bench import base as bases
from bench import record
from bench.errors import BenchError, RunFailed, SetupError, UsageError
from bench.pipeline import Options, Run
from bench.spec import Spec
from bench.specify import make_method, method_digest


def execute(spec: Spec, options: Options) -> dict[str, Any]:
    """Carry out a run, or return its record if it is already done.

    Returns:
        The record; its status is ``ok``.

    Raises:
        UsageError, SetupError: before anything started; nothing is written.
        RunFailed: the run failed; its record says how. KeyboardInterrupt: likewise, and it can be resumed.
    """
    path = record.path_of(options.out, spec)
    done = _already(path, spec, options)
    if done:
        return done
    run = Run(spec, options)
    lock = FileLock(options.out / "checkpoints" / f"{spec.id}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    if bases.lock_is_busy(lock):
        run.progress.say("waiting for another process that is at the same run")
    with lock, _terminable():
        done = _already(path, spec, options)
        if done:
            return done
        finished = {"status": "ok", "error": None}
        failure: BaseException | None = None
        try:
            run.go()
        except KeyboardInterrupt as stop:
            failure, finished = stop, _failed("interrupted", stop)
        except UsageError:
            raise
        except BenchError as error:
            failure, finished = error, _failed(error.status, error)
        except Exception as error:
            failure, finished = error, _failed("failed", error)
        finally:
            run.progress.close()
            run.let_go()
        sealed = record.seal(record.finite(run.record()) | finished)
        problems = record.check_form(sealed)
        if problems:  # a bug of the suite, told rather than published
            failure = RunFailed(f"the record would not be valid: {problems[0]}")
            sealed = record.seal(sealed | _failed("failed", failure))
        try:
            record.write(path, sealed, replace=options.retry)
        except OSError as error:
            kept = _rescue(path, sealed)
            raise SetupError(f"record not written to {path} ({error.strerror}): it is in {kept}") from error
        if failure is None or not isinstance(failure, KeyboardInterrupt):
            run.checkpoint.unlink(missing_ok=True)
        if isinstance(failure, BenchError | KeyboardInterrupt):
            raise failure
        if failure is not None:
            raise RunFailed(
                f"{spec.method} failed ({type(failure).__name__}: {failure}); the record has the traceback: {path}"
            ) from failure
        return sealed


def _already(path: Path, spec: Spec, options: Options) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = record.load(path)
    if found["status"] == "ok" and not options.retry:
        method = make_method(spec.method, {})
        if found["code"]["method_sha256"] != method_digest(method) and not options.quiet:
            print(
                f"bench: note: the file of {spec.method} has changed since this record; --retry runs it again",
                file=sys.stderr,
            )
        lacking = set(options.runtimes) - {entry["runtime"] for entry in found["latency"]}
        if lacking and not options.quiet:
            text = f"this record has no latency in {', '.join(sorted(lacking))}; --retry runs it again"
            print(f"bench: note: {text}", file=sys.stderr)
        return found
    if found["status"] == "ok":
        return None
    if found["status"] != "interrupted" and not options.retry:
        raise RunFailed(
            f"this run {found['status']} before ({found['error']['message']}); --retry runs it again: {path}"
        )
    return None


def _failed(status: str, error: BaseException) -> dict[str, Any]:
    frames = [f"{f.filename}:{f.lineno} {f.name}: {f.line}" for f in traceback.extract_tb(error.__traceback__)]
    described = {
        "type": type(error).__name__,
        "message": _without_folders(str(error) or type(error).__name__),
        "traceback": [_without_folders(frame) for frame in frames],
    }
    return {"status": status, "error": described}


def _without_folders(text: str) -> str:
    """``text`` with the file names of its absolute paths only: a record tells nothing of the machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":]+/)+", "", text)


def _rescue(path: Path, sealed: dict[str, Any]) -> str:
    """Keep a record that its folder did not take: in the system's temporary folder, else on stdout."""
    text = record.to_text(sealed)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=path.stem + "-", suffix=".json", delete=False) as file:
            file.write(text)
        return file.name
    except OSError:
        print(text)
        return "the output above"


@contextmanager
def _terminable() -> Iterator[None]:
    """Within the block, SIGTERM interrupts like Ctrl-C, so that the run leaves its record."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
