"""The result of a run: its record, which starts with what is known before training and is filled step by step."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from bench.errors import SUITE, RunFailed
from bench.records import schema
from bench.records.schema import Record
from bench.records.values import fitting
from bench.spec.request import RunOptions
from bench.spec.spec import Spec

_TYPES = {field.name: field.type for field in msgspec.structs.fields(Record)}


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def started(
    spec: Spec,
    options: RunOptions,
    code: Mapping[str, Any],
    environment: Mapping[str, Any],
    job: Mapping[str, Any] | None,
) -> Record:
    """The record of a run that has nothing to show yet: interrupted, if nothing follows."""
    known = {"code": code, "environment": environment, "job": job, "status": "interrupted"}
    time = now()
    return Record(
        id=spec.id,
        kind="bench.run",
        schema=2,
        spec=spec,
        spec_sha256=spec.sha256,
        clock=schema.Clock(time, time, 0, None, {}),
        error=None,
        plan_sha256=options.plan_sha256,
        replay_of=options.replay_of,
        **{name: msgspec.convert(value, _TYPES[name]) for name, value in known.items()},
    )


def filled(record: Record, **parts: Any) -> Record:
    """``record`` with these parts, given as tables; raises RunFailed for what no record may have."""
    typed = {}
    for name, values in parts.items():
        try:  # as JSON, where a number that is not finite is null
            typed[name] = msgspec.json.decode(msgspec.json.encode(values), type=_TYPES[name])
        except msgspec.ValidationError as error:
            raise RunFailed(f"the record would not be valid: {name}: {error}", blame=SUITE) from error
    return msgspec.structs.replace(record, **typed)


def failed(record: Record, status: str, error: BaseException, blame: str) -> Record:
    """``record`` of a run that ended with ``error``; ``blame`` is one of ``bench.errors.PARTIES``."""
    frames = [f"{f.filename}:{f.lineno} {f.name}: {f.line}" for f in traceback.extract_tb(error.__traceback__)]
    message = fitting(_without_folders(str(error) or type(error).__name__))
    traced = [fitting(_without_folders(frame)) for frame in frames]
    described = {"type": type(error).__name__, "message": message, "traceback": traced, "blame": blame}
    return filled(record, status=status, error=described)


def without_results(record: Record) -> Record:
    """``record`` with nothing but what every record has: for results that no record may have."""
    return Record(**{f.name: getattr(record, f.name) for f in msgspec.structs.fields(Record) if f.required})


def _without_folders(text: str) -> str:
    """``text`` with the file names of its absolute paths only: a record must not name folders of the machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\":]+/)+", "", text)
