"""Runs from Python: ``bench.run`` and ``bench.load``, with the defaults of the commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from bench.errors import UsageError
from bench.records import store
from bench.records.lookup import find_one
from bench.records.schema import Finished, finished
from bench.runs.artifacts import RunArtifacts
from bench.runs.execute import execute
from bench.runs.resolve import resolve
from bench.spec.near_names import unknown
from bench.spec.registry import add_plugin
from bench.spec.request import RunOptions, RunRequest

REQUEST, OPTIONS = ({f.name for f in dataclasses.fields(cls)} for cls in (RunRequest, RunOptions))


def run(**asked: Any) -> Finished | list[Finished]:
    """Carry out what ``bench run`` with these options does, one seed after the other.

    Args:
        asked: fields of :class:`bench.spec.request.RunRequest`, of which ``method`` and ``arch`` are required, and of
            :class:`bench.spec.request.RunOptions`.

    Returns:
        The record; where ``seeds`` are given, a list in their order. A run that is already done is read, not repeated.

    Raises:
        UsageError: a name or a value is unknown or invalid.
        SetupError: device or data are not there.
        RunFailed: a run failed; its record says how. Later seeds are not run; the same call resumes.
    """
    for name in asked:
        if name not in REQUEST | OPTIONS:
            raise unknown("argument of bench.run", name, REQUEST | OPTIONS)
    missing = [name for name in ("method", "arch") if name not in asked]
    if missing:
        raise UsageError(f"bench.run: {' and '.join(missing)} missing")
    request = RunRequest(**{name: value for name, value in asked.items() if name in REQUEST})
    options = RunOptions(**{name: value for name, value in asked.items() if name in OPTIONS})
    specs, options = resolve(request, options)
    records = [execute(spec, options) for spec in specs]
    return records if "seeds" in asked else records[0]


def load(
    record: str | Path, out: str | Path = RunOptions.out, which: str = "final", plugins: Iterable[str] = ()
) -> tuple[nn.Module, Finished]:
    """A network that a run left behind, on the CPU in evaluation mode, and the run's record.

    Args:
        record: file of the record, or (the start of) its id.
        out: folder that the run wrote to.
        which: ``final``, or ``dense``: the unpruned network that it is compared with.
        plugins: files that define what the record names.

    Raises:
        UsageError: there is no such record, or several.
        SetupError: a file of the run is not there.
        RunFailed: a file of the run is not the recorded one.
    """
    if which not in ("final", "dense"):
        raise UsageError(f"bench.load: which is final or dense, not {which!r}")
    for file in plugins:
        add_plugin(file)
    found = store.load(find_one(str(record), Path(out)))
    if not finished(found):
        raise UsageError(f"run {found.id} {found.status}, it left no network")
    return RunArtifacts(found, Path(out)).network(which).eval(), found
