"""What became of runs: read from their records, journals and jobs, never from submitit."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.errors import SetupError
from bench.files import run_lock
from bench.records import store
from bench.records.schema import Record
from bench.spec.spec import Spec
from slurm import journal
from slurm.batch import Batch, base_key, batches, trained_bases
from slurm.cluster import RUNNING, WAITING
from slurm.clusters import cluster_of, remedy
from slurm.journal import Attempt, attempts_in

DONE, FAILED, LOST, MISSING, UNKNOWN = "done", "failed", "lost", "missing", "unknown"
STATES = (DONE, RUNNING, WAITING, FAILED, LOST, MISSING, UNKNOWN)
"""``lost``: its job is gone and there is no record. ``unknown``: it was submitted and the cluster does not answer."""
ROOM_BYTES = 2**20
"""Free bytes below which a disk counts as full."""


@dataclass(frozen=True)
class State:
    """What is known of one run.

    Attributes:
        spec: the run.
        state: one of ``STATES``.
        detail: why it waits, failed, or is lost.
        batch, job: where it runs, waits or last was, if it was ever submitted.
        done, total: epochs of the attempt at work.
        seconds_left: estimated; None when that is not known.
        record_sha256: of its record, if there is one.
        seconds: that a finished run took.
        differs: what its job found not to be as it was at submission.
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
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaseState:
    """What is known of a base that runs wait for.

    Attributes:
        key: its name.
        state: ``running``, ``waiting``, ``lost`` (its job is gone: the first run that needs it trains it), ``unknown``.
        detail: why it waits.
        job: where it is.
        remedy: what somebody has to do before it continues; empty where nothing is to be done.
        runs: how many of the runs need it.
    """

    key: str
    state: str
    detail: str
    job: str
    remedy: str
    runs: int


@dataclass
class RunStates:
    """What is known of many runs; ``problems`` are what could not be asked, in words."""

    states: list[State]
    problems: list[str] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    live: dict[str, tuple[str, str]] = field(default_factory=dict)
    bases: list[BaseState] = field(default_factory=list)

    def of(self, *states: str) -> list[State]:
        """Those in one of ``states``."""
        return [state for state in self.states if state.state in states]

    def counts(self) -> dict[str, int]:
        """State -> number of runs."""
        return {name: len(self.of(name)) for name in STATES}

    def live_jobs(self, key: str, cluster: str) -> list[str]:
        """Jobs of a cluster that have not ended and have the task ``key``."""
        mine = [batch for batch in self.batches if batch.cluster == cluster and key in batch.tasks]
        return [job for batch in mine for job in batch.jobs_of(key) if job in self.live]


def query_states(specs: Sequence[Spec], out: Path) -> RunStates:
    """What became of each of ``specs`` under an output folder."""
    keys = {spec.id: spec for spec in specs}
    records = {key: _record(spec, out) for key, spec in keys.items()}
    submitted = _without_reused([batch for batch in batches(out) if batch.jobs])
    open_ids = _open(records, submitted)
    needs = {key: task["needs"] for batch in submitted for key, task in batch.tasks.items() if key in open_ids}
    if submitted:
        needs = {key: needs.get(key) or base_key(keys[key]) for key in open_ids}
    relevant = open_ids | set(needs.values())
    found = RunStates([], batches=[batch for batch in submitted if not relevant.isdisjoint(batch.tasks)])
    silent = _ask(found)
    # Only now the records again: a job that was not there when the cluster was asked has written its own by now.
    records |= {key: _record(keys[key], out) for key in open_ids}
    known = _Known(out, found, silent, open_ids)
    found.states = [known.state(spec, key, records[key]) for key, spec in keys.items()]
    _add_ends(found)
    waiting = [needs[state.spec.id] for state in found.of(RUNNING, WAITING, UNKNOWN) if state.spec.id in needs]
    found.bases = known.bases(waiting)
    if found.batches and len(found.of(DONE)) < len(keys) and shutil.disk_usage(out).free < ROOM_BYTES:
        found.problems.append(
            f"the disk of {out} is full: jobs wait up to ten minutes for room, then end; make room and submit again"
        )
    return found


def _without_reused(submitted: Sequence[Batch]) -> list[Batch]:
    """The batches, oldest first, without ids that a later one has: SLURM without its state counts from 1 again."""
    owner = {job: batch.token for batch in submitted for job in batch.jobs}
    return [
        replace(batch, jobs=tuple(job if owner[job] == batch.token else "" for job in batch.jobs))
        for batch in submitted
    ]


def _open(records: Mapping[str, Record | store.RecordError | None], submitted: Sequence[Batch]) -> set[str]:
    """Runs that a job may still be at: those without a finished record, or with one that is to be replaced."""
    again = {key: task["replaces"] for batch in submitted for key, task in batch.tasks.items() if task["replaces"]}
    return {
        name
        for name, found in records.items()
        if not isinstance(found, Record) or found.status != "ok" or found.record_sha256 == again.get(name)
    }


def _ask(found: RunStates) -> set[str]:
    """Ask the clusters for jobs that have not ended; returns those that do not answer."""
    silent = set()
    for name in sorted({batch.cluster for batch in found.batches}):
        try:
            found.live |= cluster_of(name).live([batch for batch in found.batches if batch.cluster == name])
        except SetupError as error:
            silent.add(name)
            found.problems.append(str(error))
    return silent


def _record(spec: Spec, out: Path) -> Record | store.RecordError | None:
    """The record of a run, or what is wrong with it; None where there is none."""
    path = store.path_of(out, spec)
    if not path.is_file():
        return None
    try:
        return store.load(path)
    except store.RecordError as error:
        return error


class _Known:
    """What batches, journals and clusters say of tasks."""

    def __init__(self, out: Path, found: RunStates, silent: set[str], open_ids: set[str]) -> None:
        self.out, self.found, self.silent = out, found, silent
        self.jobs: dict[str, list[tuple[Batch, Sequence[str]]]] = {}
        """Task -> all jobs that ever had it, oldest first, by batch."""
        for batch in found.batches:
            if batch.shared:
                for key in batch.tasks:
                    self.jobs.setdefault(key, []).append((batch, batch.jobs))
                continue
            for number, job in enumerate(batch.jobs):
                for key in batch.keys_of(number):
                    self.jobs.setdefault(key, []).append((batch, [job]))
        self.alive = {batch.token: [job for job in batch.jobs if job in found.live] for batch in found.batches}
        self.last: dict[str, Attempt] = {}
        for batch in found.batches:
            for key, attempts in attempts_in(batch.folder).items():
                if key in open_ids and (key not in self.last or attempts[-1].began > self.last[key].began):
                    self.last[key] = attempts[-1]

    def live(self, key: str) -> list[tuple[Batch, str]]:
        """Jobs that have the task and have not ended, oldest first."""
        return [
            (batch, job)
            for batch, jobs in self.jobs.get(key, ())
            for job in (self.alive[batch.token] if batch.shared else jobs)
            if job in self.found.live
        ]

    def state(self, spec: Spec, key: str, found: Record | store.RecordError | None) -> State:
        """The state of one run."""
        if spec.lacks_table:
            return State(spec, WAITING, "its latency table is not measured")
        status: str | None = None
        sha256, message, seconds = None, "", None
        differs: tuple[str, ...] = ()
        if isinstance(found, Record):
            status, sha256, seconds = found.status, found.record_sha256, sum(found.clock.seconds.values())
            message = found.error.message if found.error else ""
            differs = tuple(found.job.differs or ()) if found.job else ()
        elif found:
            status, message = "damaged", str(found)
        at_it = self.live(key)
        last = self.last.get(key)
        going = last if last and last.ended is None else None
        mine = [pair for pair in at_it if going and pair[1] == going.job]  # of several, the one that works on it
        once = [(batch, jobs[-1]) for batch, jobs in self.jobs.get(key, ())[-1:]]
        batch, job = next(iter([*reversed(mine), *reversed(at_it), *once]), (None, None))
        replaced = batch.tasks[key]["replaces"] if batch else None
        final = status not in (None, "interrupted") and (sha256 is None or sha256 != replaced)
        known = State(spec, MISSING, message, batch, job, record_sha256=sha256, seconds=seconds, differs=differs)
        if final:
            return replace(known, state=DONE if status == "ok" else FAILED)
        if batch and job in self.found.live:
            if mine and going and self.found.live[job][0] == RUNNING:
                done, total = going.last[1:] if going.last else (None, None)
                left = going.seconds_left()
                return replace(known, state=RUNNING, detail="", done=done, total=total, seconds_left=left)
            return replace(known, state=WAITING, detail=self.found.live[job][1])
        if batch and batch.cluster in self.silent:
            return replace(known, state=UNKNOWN)
        if run_lock(self.out, key).busy():
            return replace(known, state=RUNNING, detail="not as a job", batch=None, job=None)
        if status in ("ok", "failed", "diverged"):  # it was to be replaced, and was not
            return replace(known, state=DONE if status == "ok" else FAILED)
        if last and last.ended == journal.DISK_FULL:
            known = replace(known, detail="the disk was full when it was carried out")
        return replace(known, state=LOST) if batch and status is None else known

    def bases(self, waiting: Sequence[str]) -> list[BaseState]:
        """Of the bases that runs wait for those that are not there, those first that somebody has to do something
        about; ``waiting`` has the base of each such run."""
        counts = {key: number for key, number in Counter(waiting).items() if key in self.jobs}
        trained = trained_bases(self.out, list(counts)) if counts else set()
        found = [self._base(key, runs) for key, runs in counts.items() if key not in trained]
        return sorted(found, key=lambda base: (not base.remedy, base.state != WAITING))

    def _base(self, key: str, runs: int) -> BaseState:
        at_it = self.live(key)
        if not at_it:
            batch, jobs = self.jobs[key][-1]
            return BaseState(key, UNKNOWN if batch.cluster in self.silent else LOST, "", jobs[-1], "", runs)
        _, job = at_it[-1]
        state, reason = self.found.live[job]
        return BaseState(key, state, reason, job, remedy(job, reason) or "", runs)


def _add_ends(found: RunStates) -> None:
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
        parts = [state.detail] if state.detail else []
        found.states[index] = replace(state, state=kind, detail="; ".join([*parts, detail]))
