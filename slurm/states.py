"""What became of runs: read from their records, journals and jobs, never from submitit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import record
from bench.errors import SetupError
from bench.files import run_lock
from bench.spec import Spec
from slurm.batch import Batch, base_key, batches, journal_of
from slurm.clusters import RUNNING, WAITING, cluster_of
from slurm.journal import Leg

DONE, FAILED, LOST, MISSING, UNKNOWN = "done", "failed", "lost", "missing", "unknown"
STATES = (DONE, RUNNING, WAITING, FAILED, LOST, MISSING, UNKNOWN)
"""``lost``: its job is gone and there is no record. ``unknown``: it was submitted and the cluster does not answer."""


@dataclass(frozen=True)
class State:
    """What is known of one run.

    Attributes:
        spec: the run.
        state: one of ``STATES``.
        detail: why it waits, failed, or is lost.
        batch, job: where it runs, waits or last was, if it was ever submitted.
        done, total: epochs of the leg at work.
        seconds_left: estimated; None when that is not known.
        record_sha256: of its record, if there is one.
        seconds: that a finished run took.
    """

    spec: Spec
    state: str
    detail: str = ""
    batch: Batch | None = None
    job: str | None = None
    done: int | None = None
    total: int | None = None
    seconds_left: float | None = None
    record_sha256: str | None = None
    seconds: float | None = None


@dataclass
class Survey:
    """What is known of many runs; ``problems`` are what could not be asked, in words."""

    states: list[State]
    problems: list[str] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    live: dict[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, *states: str) -> list[State]:
        """Those in one of ``states``."""
        return [state for state in self.states if state.state in states]

    def counts(self) -> dict[str, int]:
        """State -> number of runs."""
        return {name: len(self.of(name)) for name in STATES}

    def live_jobs(self, key: str, cluster: str) -> list[str]:
        """Jobs of a cluster that have not ended and have the task ``key``."""
        mine = [batch for batch in self.batches if batch.cluster == cluster]
        return [job for batch in mine for job in batch.jobs_of(key) if job in self.live]


def survey(specs: Sequence[Spec], out: Path) -> Survey:
    """What became of each of ``specs`` under an output folder."""
    records = {spec.id: _record(spec, out) for spec in specs}
    submitted = _without_reused([batch for batch in batches(out) if batch.jobs])
    open_ids = _open(records, submitted)
    relevant = open_ids | {base_key(spec) for spec in specs if spec.id in open_ids}
    found = Survey([], batches=[batch for batch in submitted if not relevant.isdisjoint(batch.tasks)])
    silent = _ask(found)
    jobs: dict[str, list[tuple[Batch, str]]] = {}
    for batch in found.batches:
        for job, keys in zip(batch.jobs, batch.elements, strict=True):
            for key in open_ids.intersection(keys):
                jobs.setdefault(key, []).append((batch, job))
    # Only now the records again: a job that was not there when the cluster was asked has written its own by now.
    records |= {spec.id: _record(spec, out) for spec in specs if spec.id in open_ids}
    found.states = [_state(spec, out, records[spec.id], jobs.get(spec.id, []), found.live, silent) for spec in specs]
    _tell_ends(found)
    return found


def _without_reused(submitted: Sequence[Batch]) -> list[Batch]:
    """The batches, oldest first, without ids that a later one has: a controller that lost its state counts anew."""
    owner = {job: batch.token for batch in submitted for job in batch.jobs}
    return [
        replace(batch, jobs=tuple(job if owner[job] == batch.token else "" for job in batch.jobs))
        for batch in submitted
    ]


def _open(records: Mapping[str, Mapping[str, Any] | None], submitted: Sequence[Batch]) -> set[str]:
    """Runs that a job may still be at: those without a finished record, or with one that is to be replaced."""
    again = {key: task["replaces"] for batch in submitted for key, task in batch.tasks.items() if task["replaces"]}
    return {
        name
        for name, found in records.items()
        if not found or found["status"] != "ok" or found["record_sha256"] == again.get(name)
    }


def _ask(found: Survey) -> set[str]:
    """Ask the clusters for jobs that have not ended; returns those that do not answer."""
    silent = set()
    for name in sorted({batch.cluster for batch in found.batches}):
        try:
            found.live |= cluster_of(name).live([batch for batch in found.batches if batch.cluster == name])
        except SetupError as error:
            silent.add(name)
            found.problems.append(str(error))
    return silent


def _record(spec: Spec, out: Path) -> dict[str, Any] | None:
    path = record.path_of(out, spec)
    if not path.is_file():
        return None
    try:
        found = record.load(path)
    except record.RecordError as error:
        return {"status": "damaged", "record_sha256": None, "error": {"message": str(error)}, "clock": {"seconds": {}}}
    return {key: found[key] for key in ("status", "record_sha256", "error", "clock")}


def _state(
    spec: Spec,
    out: Path,
    found: dict[str, Any] | None,
    jobs: list[tuple[Batch, str]],
    live: dict[str, tuple[str, str]],
    silent: set[str],
) -> State:
    """The state of one run; ``jobs`` are all that ever had it, oldest first."""
    status, sha256 = (found["status"], found["record_sha256"]) if found else (None, None)
    message = found["error"]["message"] if found and found["error"] else ""
    at_it = [pair for pair in jobs if pair[1] in live]
    last = _last_leg(spec, out) if at_it else None
    mine = [pair for pair in at_it if last and pair[1] == last.job]  # of several, the one that works on it
    batch, job = next(iter([*reversed(mine), *reversed(at_it), *reversed(jobs)]), (None, None))
    replaced = batch.tasks[spec.id]["replaces"] if batch else None
    final = status not in (None, "interrupted") and (sha256 is None or sha256 != replaced)
    seconds = sum(found["clock"]["seconds"].values()) if found else None
    known = State(spec, MISSING, message, batch, job, record_sha256=sha256, seconds=seconds)
    if final:
        return replace(known, state=DONE if status == "ok" else FAILED)
    if batch and job in live:
        if mine and last and live[job][0] == RUNNING:
            done, total = last.epochs[-1][1:] if last.epochs else (None, None)
            left = last.seconds_left()
            return replace(known, state=RUNNING, detail="", done=done, total=total, seconds_left=left)
        return replace(known, state=WAITING, detail=live[job][1])
    if batch and batch.cluster in silent:
        return replace(known, state=UNKNOWN)
    if _busy(spec, out):
        return replace(known, state=RUNNING, detail="not as a job", batch=None, job=None)
    if status in ("ok", "failed", "diverged"):  # it was to be replaced, and was not
        return replace(known, state=DONE if status == "ok" else FAILED)
    return replace(known, state=LOST) if batch and status is None else known


def _last_leg(spec: Spec, out: Path) -> Leg | None:
    """The leg that is going on, if there is one."""
    legs = journal_of(out, spec.id).legs()
    return legs[-1] if legs and legs[-1].ended is None else None


def _busy(spec: Spec, out: Path) -> bool:
    """Whether a process that is no job is at the run."""
    return run_lock(out, spec.id).busy()


def _tell_ends(found: Survey) -> None:
    """How the jobs of lost runs ended; one that somebody cancelled is missing, not lost."""
    lost = found.of(LOST)
    ends: dict[str, str] = {}
    for name in sorted({state.batch.cluster for state in lost if state.batch}):
        mine: Iterable[str] = [s.job for s in lost if s.job and s.batch and s.batch.cluster == name]
        try:
            ends |= cluster_of(name).ends(mine)
        except SetupError as error:
            found.problems.append(f"no accounting ({error}): of jobs that are gone it is not known how they ended")
    for index, state in enumerate(found.states):
        if state.state != LOST:
            continue
        end = ends.get(state.job or "", "")
        wanted = state.batch is not None and state.job in state.batch.cancelled
        kind = MISSING if wanted or end.startswith("CANCELLED") else LOST
        detail = f"its job ended as {end} and left no record" if end else "its job is gone and left no record"
        found.states[index] = replace(state, state=kind, detail=detail)
